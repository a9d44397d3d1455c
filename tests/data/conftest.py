"""A small configuration of the dataset, and a small labeled source of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edm2.data.decoding import Pixels
from edm2.data.splits import Split, split_classes
from edm2.params import Params, load
from edm2.params.dataset import Dataset


@pytest.fixture(scope="session")
def params() -> Params:
    return load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def dataset(params: Params) -> Dataset:
    update = {"resolution": 8, "held_out": 0.25, "shard_images": 4}
    return params.dataset.model_copy(update=update)


class Noise:
    """Twelve images of class a and eight of class b, mixed; records which images are read."""

    classes = ["a", "b"]  # noqa: RUF012
    labels = np.array([0, 1, 0, 1, 0] * 4)

    def __init__(self) -> None:
        self.reads: list[int] = []

    def image(self, index: int) -> Pixels:
        self.reads.append(int(index))
        pixels = np.random.default_rng(int(index)).integers(0, 256, (8, 8, 3))
        return pixels.astype(np.uint8)

    def split(self, held_out: float, seed: int) -> Split:
        return split_classes(self.labels, held_out, seed)

    def identity(self) -> str:
        return "noise"


@pytest.fixture
def source() -> Noise:
    return Noise()


@pytest.fixture
def pixels_of() -> Callable[[int], np.ndarray]:
    """pixels_of(index): an image of the source, uint8 CHW."""
    return lambda index: Noise().image(index).transpose(2, 0, 1)
