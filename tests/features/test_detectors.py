"""Loading of detectors, and the tests that apply to all published ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_detectors import random_dinov2, random_inception, write_dinov2, write_inception

from edm2.features import dinov2, inception
from edm2.features.classifier import Classifier, save_classifier
from edm2.features.detectors import load_detector
from edm2.features.dinov2 import load_dinov2
from edm2.features.inception import Inception, load_inception
from edm2.params import UserError
from edm2.params.seams import DETECTORS
from edm2.runtime.files import sha256

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NAMES = ["inception", "dinov2"]
WRITE = {"inception": write_inception, "dinov2": write_dinov2}
LOAD = {"inception": load_inception, "dinov2": load_dinov2}
RANDOM = {
    "inception": lambda: Inception(random_inception(), "a fingerprint"),
    "dinov2": lambda: random_dinov2(depth=1),  # as deep as the file that write_dinov2 writes
}
WEIGHTS = {
    "inception": (inception, "INCEPTION_WEIGHTS"),
    "dinov2": (dinov2, "DINOV2_WEIGHTS"),
}


@pytest.fixture(scope="module", params=NAMES)
def published(request: pytest.FixtureRequest):
    """A detector with random weights, its module, and its network."""
    if request.param == "dinov2":
        detector = random_dinov2(depth=2)
        return detector, dinov2, detector
    detector = Inception(random_inception(), "a fingerprint")
    return detector, inception, detector.network


def pixels(count: int, side: int) -> torch.Tensor:
    """Images of blobs: neighboring pixels are similar but not equal."""
    coarse = torch.randint(0, 256, (count, 3, 3, 3)).float()
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth + torch.randint(-20, 20, smooth.shape)).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    save_classifier(Classifier(8, 2, dims=6, num_classes=4, resolution=16), tmp_path / "features")
    return tmp_path / "features"


@pytest.mark.parametrize("name", NAMES)
def test_detector_path_is_relative_to_the_root(name, classifier, tmp_path, monkeypatch):
    path = WRITE[name](tmp_path / "weights.pth", monkeypatch)
    detector = load_detector(name, "weights.pth", classifier, tmp_path, CPU)
    assert (detector.name, detector.dims) == (name, DETECTORS[name].dims)
    assert detector.fingerprint == sha256(path)
    assert detector.features(pixels(1, 4)).shape == (1, detector.dims)


def test_the_classifier_is_loaded_from_its_folder(classifier: Path, tmp_path: Path):
    detector = load_detector("classifier", None, classifier, tmp_path, CPU)
    assert (detector.name, detector.dims) == ("classifier", 6)
    assert detector.fingerprint == sha256(classifier / "network.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_loaded_from_a_path_or_from_the_cache(name, tmp_path, monkeypatch):
    path, images = WRITE[name](tmp_path / "copy.pth", monkeypatch), pixels(1, 8)
    expected, fingerprint = RANDOM[name]().features(images), sha256(path)
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    for source in (path, None):
        detector = LOAD[name](source, CPU)
        assert torch.equal(detector.features(images), expected)
        assert detector.fingerprint == fingerprint
        if source is not None:
            (tmp_path / "cache").mkdir()
            path.rename(tmp_path / "cache" / getattr(*WEIGHTS[name]).file)


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_download_names_url_cache_and_param(name, tmp_path, monkeypatch):
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    unreachable = replace(getattr(*WEIGHTS[name]), url="http://127.0.0.1:1/weights.pth")
    monkeypatch.setattr(*WEIGHTS[name], unreachable)
    with pytest.raises(UserError) as error:
        LOAD[name](None, CPU)
    for part in (unreachable.url, str(tmp_path / unreachable.file), "evaluation.detector_path"):
        assert part in str(error.value)


def test_features_are_vectors_without_gradients(published):
    detector, _, _ = published
    features = detector.features(pixels(1, 20))
    dims = {"inception": 2048, "dinov2": 1024}[detector.name]
    assert (features.shape, features.dtype, features.requires_grad) == (
        (1, dims),
        torch.float32,
        False,
    )
    assert detector.dims == dims
    assert not detector.training
    assert not any(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_images_that_are_not_uint8_are_refused(published, dtype):
    with pytest.raises(TypeError, match="uint8"):
        published[0].features(pixels(1, 8).to(dtype))


def test_features_do_not_depend_on_the_batch(published, monkeypatch):
    detector, module, network = published
    images, sizes = pixels(3, 32), []
    together = detector.features(images)
    monkeypatch.setattr(module, "MAX_BATCH_SIZE", 2)
    hook = network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    torch.testing.assert_close(detector.features(images), together, rtol=1e-4, atol=1e-4)
    hook.remove()
    assert sizes == [2, 1]
