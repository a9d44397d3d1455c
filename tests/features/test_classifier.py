"""The dataset's own classifier, as backbone and as detector."""

from pathlib import Path

import pytest
import torch
from torch import nn

from edm2.data.images import to_float
from edm2.features.classifier import Classifier, load_classifier, save_classifier
from edm2.params import UserError
from edm2.params.errors import NotFiniteError

CPU = torch.device("cpu")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(channels=8, slices=3, dims=6, num_classes=4, resolution=16)


def test_slices_halve_the_resolution_and_double_the_width(classifier, pixels) -> None:
    shapes = [tuple(x.shape) for x in classifier.slices(to_float(pixels))]
    assert shapes == [(5, 8, 16, 16), (5, 16, 8, 8), (5, 32, 4, 4)]


def test_channel_weights_are_ones(classifier: Classifier) -> None:
    assert [w.tolist() for w in classifier.channel_weights] == [[1.0] * 8, [1.0] * 16, [1.0] * 32]


def test_slices_are_separated_by_average_pooling(classifier: Classifier) -> None:
    classifier.stages = nn.ModuleList([nn.Identity()] * 3)
    x = torch.randn(2, 3, 16, 16)
    means = x.reshape(2, 3, 4, 4, 4, 4).mean(dim=(3, 5))
    torch.testing.assert_close(classifier.slices(x)[2], means)


@pytest.mark.parametrize(("slices", "resolution"), [(1, 4), (2, 32), (4, 8)])
def test_features_and_logits_have_the_given_widths(slices: int, resolution: int) -> None:
    classifier = Classifier(8, slices, dims=6, num_classes=4, resolution=resolution)
    images = torch.randint(0, 256, (2, 3, resolution, resolution), dtype=torch.uint8)
    assert classifier.features(images).shape == (2, 6)
    assert classifier(to_float(images)).shape == (2, 4)


def test_features_are_float32_without_gradient(classifier: Classifier, pixels) -> None:
    features = classifier.features(pixels)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert len(features.unique(dim=0)) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_images_that_are_not_uint8_are_refused(classifier: Classifier, pixels, dtype) -> None:
    with pytest.raises(TypeError, match="uint8"):
        classifier.features(pixels.to(dtype))


def test_features_do_not_depend_on_the_batch(classifier: Classifier, pixels) -> None:
    one_by_one = torch.cat([classifier.features(image[None]) for image in pixels])
    torch.testing.assert_close(classifier.features(pixels), one_by_one)


def test_a_saved_classifier_gives_the_same_features(classifier, pixels, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path / "features", accuracy=0.5)
    loaded = load_classifier(tmp_path / "features", CPU)
    assert torch.equal(loaded.features(pixels), classifier.features(pixels))
    assert torch.equal(loaded(to_float(pixels)), classifier(to_float(pixels)))


def test_a_loaded_classifier_is_frozen(classifier: Classifier, tmp_path: Path) -> None:
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path, CPU)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("end", [b"", b"????"], ids=["truncated", "changed"])
def test_damaged_weights_are_named(classifier: Classifier, tmp_path: Path, end) -> None:
    save_classifier(classifier, tmp_path)
    path = tmp_path / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + end)
    with pytest.raises(UserError, match=path.name):
        load_classifier(tmp_path, CPU)


def test_weights_that_are_not_finite_are_refused(classifier, tmp_path: Path) -> None:
    with torch.no_grad():
        classifier.embed.bias[2] = torch.nan
    save_classifier(classifier, tmp_path)
    with pytest.raises(NotFiniteError, match=rf"{tmp_path}: tensor embed.bias"):
        load_classifier(tmp_path, CPU)
