"""Conversion between uint8 and float images, and image shards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edm2.data.images import ImageShards, image_sample, max_batch_size, to_float, to_uint8
from edm2.data.shards import write_shard
from edm2.params.errors import NotFiniteError
from edm2.runtime.manifest import write_manifest

EVERY_VALUE = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_max_batch_size_falls_with_the_number_of_pixels() -> None:
    assert [max_batch_size(r) for r in (64, 512, 1024, 4096)] == [512, 8, 2, 1]


def test_floats_range_from_minus_one_to_one() -> None:
    floats = to_float(EVERY_VALUE).flatten()
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats, torch.linspace(-1, 1, 256))


def test_to_uint8_inverts_to_float_for_every_value() -> None:
    assert torch.equal(to_uint8(to_float(EVERY_VALUE)), EVERY_VALUE)


def test_to_uint8_rounds_and_clamps() -> None:
    step = 2 / 255
    images = to_uint8(torch.tensor([-5.0, -1.0, -1 + 0.4 * step, -1 + 0.6 * step, 1.0, 7.0]))
    assert images.tolist() == [0, 0, 0, 1, 255, 255]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)  # NHWC


@pytest.fixture
def images(tmp_path: Path, pixels: np.ndarray) -> ImageShards:
    samples = [image_sample(f"{i:08d}", pixels[i], i % 2) for i in range(5)]
    write_shard(tmp_path / "train-000000.tar", samples[:3])
    write_shard(tmp_path / "train-000001.tar", samples[3:])
    write_manifest(tmp_path, classes=["a", "b"], resolution=8, crop="lanczos")
    return ImageShards(tmp_path, "train")


def test_images_are_stored_without_loss_and_read_as_chw(images: ImageShards, pixels) -> None:
    assert (len(images), images.classes, images.resolution) == (5, ["a", "b"], 8)
    image, label = images[3]
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image, pixels[3].transpose(2, 0, 1))
    assert label == 1


def test_batch_has_the_order_of_the_indices(images: ImageShards, pixels: np.ndarray) -> None:
    batch, labels = images.batch([4, 0, 4])
    np.testing.assert_array_equal(batch, pixels[[4, 0, 4]].transpose(0, 3, 1, 2))
    assert labels.tolist() == [0, 0, 0]
    assert labels.dtype == torch.int64


def rngs(*numbers: int) -> list[np.random.Generator]:
    return [np.random.default_rng(number) for number in numbers]


def test_images_are_unchanged_without_crops_and_flips(images: ImageShards) -> None:
    augmented = images.augmented_batch([4, 0, 4], rngs(0, 1, 2), min_area=1.0, flip=0.0)
    expected, _ = images.batch([4, 0, 4])
    assert torch.equal(augmented, expected)
    assert augmented.stride() == expected.stride()


def test_flips_are_horizontal(images: ImageShards, pixels: np.ndarray) -> None:
    flipped = images.augmented_batch([1, 3], rngs(0, 1), min_area=1.0, flip=1.0)
    np.testing.assert_array_equal(flipped, pixels[[1, 3], :, ::-1].transpose(0, 3, 1, 2))


def test_flips_have_the_given_probability(images: ImageShards) -> None:
    image, _ = images[2]
    augmented = images.augmented_batch([2] * 1000, rngs(*range(1000)), min_area=1.0, flip=0.3)
    flipped = [not torch.equal(other, image) for other in augmented]
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("min_threaded", [0, 64])  # 0: several threads
def test_an_augmented_image_depends_on_its_generator_alone(
    images: ImageShards, monkeypatch: pytest.MonkeyPatch, min_threaded: int
) -> None:
    """And not on its position in the batch."""
    monkeypatch.setattr("edm2.data.images.MIN_THREADED_RESOLUTION", min_threaded)
    order = [3, 0, 1, 0]
    whole = images.augmented_batch(order, rngs(5, 6, 7, 8), min_area=0.3, flip=0.5)
    parts = [
        images.augmented_batch([index], rngs(number), min_area=0.3, flip=0.5)
        for index, number in zip(order, (5, 6, 7, 8), strict=True)
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole[1], whole[3])  # the same image, twice


def test_crops_are_enlarged_parts(tmp_path: Path) -> None:
    """Of a horizontal ramp: the slope of a crop is proportional to its side."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None] * 8, (32, 32, 3))
    write_shard(tmp_path / "train-000000.tar", [image_sample("0", ramp.copy(), 0)])
    write_manifest(tmp_path, classes=["a"], resolution=32, crop="lanczos")
    images = ImageShards(tmp_path, "train")
    crops = images.augmented_batch([0] * 200, rngs(*range(200)), 0.25, 0.0)
    slopes = crops.float().diff(dim=3)[:, :, :, 8:-8].mean(dim=(1, 2, 3)) / 8  # side over 32
    assert slopes.min() == pytest.approx(0.5, abs=0.05)
    assert slopes.max() == pytest.approx(1.0, abs=0.05)
    assert len(crops.unique(dim=0)) > 60  # different sides and positions


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_no_image(value):
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 0] = value
    with pytest.raises(NotFiniteError, match="1 of 96"):
        to_uint8(images)
