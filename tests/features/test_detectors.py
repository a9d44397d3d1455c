"""The one door to detectors."""

from pathlib import Path

import pytest
import torch
from random_detectors import write_dinov2, write_inception
from tiny import ROOT

from edm2.features.classifier import Classifier, save_classifier
from edm2.features.detectors import load_detector
from edm2.params import load
from edm2.params.evaluation import PUBLISHED_DIMS
from edm2.runtime.files import sha256

CPU = torch.device("cpu")
WRITE = {"inception": write_inception, "dinov2": write_dinov2}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    save_classifier(Classifier(8, 2, dims=6, num_classes=4, resolution=16), tmp_path / "features")
    return tmp_path / "features"


def chosen(detector: str, path: str | None = None):
    changes = {"detector": detector, "detector_path": path}
    return load(ROOT / "params.yaml").evaluation.model_copy(update=changes)


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_published_ones_come_from_a_path_below_the_root(name, classifier, tmp_path, monkeypatch):
    path = WRITE[name](tmp_path / "weights.pth", monkeypatch)
    found = load_detector(chosen(name, "weights.pth"), classifier, tmp_path, CPU)
    assert (found.name, found.dims) == (name, PUBLISHED_DIMS[name])
    assert found.fingerprint == sha256(path)
    assert found.features(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).shape == (1, found.dims)


def test_the_classifier_is_that_of_the_folder(classifier: Path, tmp_path: Path):
    found = load_detector(chosen("classifier"), classifier, tmp_path, CPU)
    assert (found.name, found.dims) == ("classifier", 6)
    assert found.fingerprint == sha256(classifier / "network.safetensors")
