"""What measures ask of a set of images: moments of their features, and the features if need be."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edm2.metrics.statistics import Statistics


class Collection:
    """Numbered images in any order: moments of the first n of them, for each n of `counts`, and the
    features of the first `kept` themselves.

    Kept features take 4·D bytes an image: 50 000 of 2048 dimensions are 400 MB. Moments take 8·D²
    bytes for each of `counts`, however many images there are.
    """

    def __init__(self, dims: int, counts: Iterable[int], kept: int = 0) -> None:
        self.moments = {count: Statistics.empty(dims) for count in counts}
        self.dims, self.kept = dims, kept
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []  # numbers, features

    def add(self, numbers: Sequence[int], features: NDArray[np.float32]) -> None:
        """Features [N, D] of the images of these numbers, each once in all."""
        order = np.asarray(numbers, np.int64)
        for count, moments in self.moments.items():
            moments.update(features[order < count])
        keep = order < self.kept
        self._parts.append((order[keep], features[keep]))

    def merge(self, other: "Collection") -> None:
        """Add what another one of the same counts has collected."""
        for count, moments in self.moments.items():
            moments.merge(other.moments[count])
        self._parts += other._parts

    def features(self, count: int) -> NDArray[np.float32]:
        """Of the first `count` images in their order: float32 [count, D].

        Raises:
            ValueError: not all of them were added and kept.
        """
        found, filled = np.empty((count, self.dims), np.float32), np.zeros(count, bool)
        for numbers, rows in self._parts:
            wanted = numbers < count
            found[numbers[wanted]], filled[numbers[wanted]] = rows[wanted], True
        if not filled.all():
            raise ValueError(f"features of the first {count} images: {filled.sum()} were kept")
        return found
