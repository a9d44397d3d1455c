"""Pixels as bytes and as numbers, and image shards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edm2.data.images import ImageShards, image_sample, to_float, to_uint8
from edm2.data.shards import write_shard
from edm2.runtime.manifest import write_manifest

EVERY_VALUE = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_floats_run_from_minus_one_to_one() -> None:
    floats = to_float(EVERY_VALUE).flatten()
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats, torch.linspace(-1, 1, 256))


def test_uint8_is_the_inverse_for_every_value() -> None:
    assert torch.equal(to_uint8(to_float(EVERY_VALUE)), EVERY_VALUE)


def test_uint8_rounds_and_clamps() -> None:
    step = 2 / 255
    found = to_uint8(torch.tensor([-5.0, -1.0, -1 + 0.4 * step, -1 + 0.6 * step, 1.0, 7.0]))
    assert found.tolist() == [0, 0, 0, 1, 255, 255]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)  # NHWC


@pytest.fixture
def images(tmp_path: Path, pixels: np.ndarray) -> ImageShards:
    samples = [image_sample(f"{i:08d}", pixels[i], i % 2) for i in range(5)]
    write_shard(tmp_path / "train-000000.tar", samples[:3])
    write_shard(tmp_path / "train-000001.tar", samples[3:])
    write_manifest(tmp_path, classes=["a", "b"], resolution=8)
    return ImageShards(tmp_path, "train")


def test_images_come_back_without_loss_as_rgb_planes(images: ImageShards, pixels) -> None:
    assert (len(images), images.classes, images.resolution) == (5, ["a", "b"], 8)
    image, label = images[3]
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image, pixels[3].transpose(2, 0, 1))
    assert label == 1


def test_batch_is_in_the_order_asked_for(images: ImageShards, pixels: np.ndarray) -> None:
    batch, labels = images.batch([4, 0, 4])
    np.testing.assert_array_equal(batch, pixels[[4, 0, 4]].transpose(0, 3, 1, 2))
    assert labels.tolist() == [0, 0, 0]
    assert labels.dtype == torch.int64


def test_batches_leave_nothing_out(images: ImageShards, pixels: np.ndarray) -> None:
    batches, labels = zip(*images.batches(2), strict=True)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(torch.cat(batches), pixels.transpose(0, 3, 1, 2))
    assert torch.cat(labels).tolist() == [0, 1, 0, 1, 0]
