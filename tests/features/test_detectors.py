"""The one door to detectors, and what the published ones have in common."""

from pathlib import Path

import pytest
import torch
from random_detectors import random_dinov2, random_inception, write_dinov2, write_inception
from tiny import ROOT

from edm2.features import dinov2, inception
from edm2.features.classifier import Classifier, save_classifier
from edm2.features.detectors import load_detector
from edm2.features.inception import Inception
from edm2.params import load
from edm2.params.seams import DETECTORS
from edm2.runtime.files import sha256

CPU = torch.device("cpu")
WRITE = {"inception": write_inception, "dinov2": write_dinov2}


@pytest.fixture(scope="module", params=["inception", "dinov2"])
def published(request: pytest.FixtureRequest):
    """A detector with random weights, its module, and the network that sees the images."""
    if request.param == "dinov2":
        detector = random_dinov2(depth=2)
        return detector, dinov2, detector
    detector = Inception(random_inception(), "some file")
    return detector, inception, detector.network


def pixels(count: int, side: int) -> torch.Tensor:
    """Images of blobs, so that neighbors are alike but not equal."""
    coarse = torch.randint(0, 256, (count, 3, 3, 3)).float()
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth + torch.randint(-20, 20, smooth.shape)).clamp(0, 255).to(torch.uint8)


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
    assert (found.name, found.dims) == (name, DETECTORS[name].dims)
    assert found.fingerprint == sha256(path)
    assert found.features(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).shape == (1, found.dims)


def test_the_classifier_is_that_of_the_folder(classifier: Path, tmp_path: Path):
    found = load_detector(chosen("classifier"), classifier, tmp_path, CPU)
    assert (found.name, found.dims) == ("classifier", 6)
    assert found.fingerprint == sha256(classifier / "network.safetensors")


def test_features_are_frozen_vectors(published):
    detector, _, _ = published
    found = detector.features(pixels(1, 20))
    dims = {"inception": 2048, "dinov2": 1024}[detector.name]
    assert (found.shape, found.dtype, found.requires_grad) == ((1, dims), torch.float32, False)
    assert detector.dims == dims
    assert not detector.training
    assert not any(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_features_refuse_what_is_not_uint8(published, dtype):
    with pytest.raises(TypeError, match="uint8"):
        published[0].features(pixels(1, 8).to(dtype))


def test_features_of_an_image_do_not_depend_on_its_batch(published, monkeypatch):
    detector, module, network = published
    images, sizes = pixels(3, 32), []
    together = detector.features(images)
    alone = torch.cat([detector.features(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    hook = network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    torch.testing.assert_close(detector.features(images), together, rtol=1e-4, atol=1e-4)
    hook.remove()
    assert sizes == [2, 1]
