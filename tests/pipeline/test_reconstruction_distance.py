"""The Fréchet distance between held-out images and their reconstructions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from tiny import ROOT
from tiny_autoencoder import make_backbone

from edm2.data.images import to_uint8
from edm2.features.classifier import Classifier, load_classifier, save_classifier
from edm2.metrics.statistics import Statistics
from edm2.params import UserError, load
from edm2.pipeline import reconstruction_distance as module
from edm2.pipeline.reconstruction_distance import ReconstructionDistance, reconstruction_distance
from edm2.vae.codec import Rgb
from edm2.vae.evaluation import evaluate

CPU = torch.device("cpu")
DIMS = 6


class Images:
    """Twenty images of 8×8."""

    resolution, after_repair = 8, ""

    def __init__(self) -> None:
        self.pixels = torch.from_numpy(
            np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
        )
        self.batches = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices):
        self.batches += 1
        return self.pixels[list(indices)], torch.zeros(len(indices), dtype=torch.int64)


class LowContrast(Rgb):
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(0.3 * latents + 0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = Classifier(8, 2, dims=DIMS, num_classes=4, resolution=8)
    save_classifier(network, tmp_path / "features")
    return tmp_path / "features"


def vae(**changes):
    return load(ROOT / "params.yaml").vae.model_copy(update={"detector": "classifier", **changes})


def expected_distance(detector, images: torch.Tensor, others: torch.Tensor) -> float:
    """Heusel et al. 2017, eq. 6, by SciPy's square root of a matrix."""
    x, y = (detector.features(part).double().numpy() for part in (images, others))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    difference = x.mean(0) - y.mean(0)
    return difference @ difference + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)


def test_it_compares_the_evaluated_images_with_their_reconstructions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of 4 of 20 images; those of 15 are a subset. Features of images are computed once."""
    monkeypatch.setattr("edm2.vae.evaluation.BATCH", 4)
    monkeypatch.setattr(module, "BATCH", 4)
    images, codec, backbone = Images(), LowContrast("dataset"), make_backbone(resolution=8)
    detector = load_classifier(folder, CPU)
    for limit in (None, 15):
        found = reconstruction_distance(vae(evaluate_images=limit), images, folder, Path(), CPU)
        calls: list[int] = []
        features = found.detector.features
        monkeypatch.setattr(
            found.detector, "features", lambda x, f=features, c=calls: (c.append(len(x)), f(x))[1]
        )
        metrics = [evaluate(codec, images, backbone, CPU, limit, found) for _ in range(2)]
        assert metrics[0] == metrics[1]
        assert sum(calls) == 2 * (limit or 20)  # reconstructions alone
        shown = images.pixels[list(module.evaluated_images(20, limit))]
        reconstructions = codec.decode(codec.encode(shown)[0])
        value = expected_distance(detector, shown, reconstructions)
        assert metrics[0][f"rfd_classifier_{limit or 20}"] == pytest.approx(value, rel=1e-4)
        assert value > 0.01
        exact = evaluate(Rgb("dataset"), images, backbone, CPU, limit, found)
        assert exact[f"rfd_classifier_{limit or 20}"] == pytest.approx(0, abs=1e-6)


def test_without_a_detector_there_is_none(folder: Path) -> None:
    images = Images()
    assert reconstruction_distance(vae(detector=None), images, folder, Path(), CPU) is None
    assert not images.batches


@pytest.mark.parametrize(("limit", "left_out"), [(DIMS, True), (DIMS + 1, False)])
def test_too_few_images_are_left_out_with_a_note(folder: Path, capsys, limit, left_out) -> None:
    images = Images()
    found = reconstruction_distance(vae(evaluate_images=limit), images, folder, Path(), CPU)
    text = capsys.readouterr().out
    assert (found is None) == left_out == ("vae.detector: classifier" in text)
    assert (not images.batches) == left_out


def test_only_inceptions_has_the_name_of_rfid() -> None:
    class Named:
        name = "inception"

    statistics = Statistics.of(np.random.default_rng(0).normal(size=(2000, 3)))
    (name,) = ReconstructionDistance(Named(), statistics).metrics(statistics)
    assert name == "rfid_2k"


def test_the_weights_of_a_published_detector_are_those_of_the_path(tmp_path: Path) -> None:
    params = vae(detector="inception", detector_path="weights.pth")
    with pytest.raises(UserError, match=str(tmp_path / "weights.pth")):
        reconstruction_distance(params, Images(), Path(), tmp_path, CPU)
