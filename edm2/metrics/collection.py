"""The features of a set of images, collected batch by batch for all metrics."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edm2.metrics.statistics import Statistics


class Collection:
    """Features of numbered images, added in any order.

    Holds the moments of the first n images, for each n in `counts`, and the features of the first
    `kept` images. Kept features take 4·D bytes per image: 400 MB for 50,000 images and D = 2048. The
    moments take 8·D² bytes for each of `counts`, for any number of images.
    """

    def __init__(self, dims: int, counts: Iterable[int], kept: int = 0) -> None:
        self.moments = {count: Statistics.empty(dims) for count in counts}
        self.dims, self.kept = dims, kept
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []  # numbers, features

    def add(
        self, numbers: Sequence[int] | NDArray[np.int64], features: NDArray[np.float32]
    ) -> None:
        """Add features [N, D] of the images with these numbers; each image is added once."""
        indices = np.asarray(numbers, np.int64)
        for count, moments in self.moments.items():
            moments.update(features[indices < count])
        keep = indices < self.kept
        if keep.any():
            self._parts.append((indices[keep], features[keep]))

    def merge(self, other: "Collection") -> "Collection":
        """Add everything from a collection with the same counts; returns itself."""
        for count, moments in self.moments.items():
            moments.merge(other.moments[count])
        self._parts += other._parts
        return self

    def features(self, count: int) -> NDArray[np.float32]:
        """Features of the first `count` images, ordered by number: float32 [count, D].

        Raises:
            ValueError: some of them were not added or not kept.
        """
        features, filled = np.empty((count, self.dims), np.float32), np.zeros(count, bool)
        for numbers, rows in self._parts:
            first = numbers < count
            features[numbers[first]], filled[numbers[first]] = rows[first], True
        if not filled.all():
            raise ValueError(f"expected features of the first {count} images, kept {filled.sum()}")
        return features
