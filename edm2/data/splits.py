"""The split into training and held-out images."""

import numpy as np
from numpy.typing import NDArray

from edm2.runtime.randomness import generator

Split = tuple[NDArray[np.int64], NDArray[np.int64]]  # training indices, held-out indices


def split_classes(labels: NDArray[np.int64], held_out: float, seed: int) -> Split:
    """Training and held-out indices, each in random order.

    The fraction `held_out` is taken from every class: at least one of its images, and never all.
    """
    rng = generator(seed, "split")
    held_parts = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(held_out * len(members))), len(members) - 1)
        held_parts.append(members[:count])
    held = rng.permutation(np.concatenate(held_parts))
    train = np.setdiff1d(np.arange(len(labels)), held)
    return rng.permutation(train), held


def shard_ranges(split: str, count: int, shard_images: int) -> dict[str, range]:
    """The file names of a split's shards, and which of its `count` images each contains."""
    return {
        f"{split}-{number:06d}.tar": range(start, min(start + shard_images, count))
        for number, start in enumerate(range(0, count, shard_images))
    }
