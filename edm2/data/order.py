"""The order in which a training sees its images: a function of seed and number alone.

Image number n of a training (n = 0, 1, 2, …) belongs to epoch n // N, in which each of the N images is seen
once. So a training can start anywhere, and any number of ranks and workers sees the same images.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edm2.params.runtime import Reading, lanes
from edm2.runtime.randomness import generator

Integers = NDArray[np.int64]
BLOCK = 16  # neighbors in a shard that are read at once: 1 MB of latents of 64×64×4
SPREAD = 16384  # images over which those of a block are spread


class ImageOrder(ABC):
    """The order of `size` images in each epoch."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epochs: dict[int, Integers] = {}

    def indices(self, numbers: range) -> list[int]:
        """The indices, in the dataset, of images by their numbers in the training."""
        values = np.asarray(numbers, dtype=np.int64)
        indices = np.empty_like(values)
        epochs = values // self.size
        for epoch in np.unique(epochs).tolist():
            mask = epochs == epoch
            indices[mask] = self._order_of(epoch)[self._places(values[mask], epoch)]
        return indices.tolist()

    def _order_of(self, epoch: int) -> Integers:
        if epoch not in self._epochs:  # a batch can be of two epochs
            kept = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            self._epochs = {**kept, epoch: self._permutation(epoch)}
        return self._epochs[epoch]

    @abstractmethod
    def _permutation(self, epoch: int) -> Integers:
        """All indices, in an order of this epoch."""

    @abstractmethod
    def _places(self, numbers: Integers, epoch: int) -> Integers:
        """Where images of this epoch are in its permutation, by their numbers."""


class RandomOrder(ImageOrder):
    """Each epoch is a uniform permutation."""

    def _permutation(self, epoch: int) -> Integers:
        return generator(self.seed, "order", epoch).permutation(self.size)

    def _places(self, numbers: Integers, epoch: int) -> Integers:
        return numbers - epoch * self.size


class BlockOrder(ImageOrder):
    """Each epoch is a random sequence of blocks of neighbors, shuffled over a limited distance.

    A batch is divided into lanes of equally many consecutive numbers. In an epoch each lane has a
    segment of the sequence, of as many images as it has numbers in this epoch, and shuffles these:
    image j of the sequence is sorted by j + w·u, with u uniform in [0, 1), so that it moves by at most w.
    So a lane needs a block for a short time only, and whoever has the same lanes of every batch reads
    each block once, or twice where a segment starts within it.

    Compared with a uniform permutation, blocks come in uniformly random order, but the images of a block
    are seen within about `SPREAD` images. Lanes depend on the batch alone, so the order does not
    depend on ranks and workers, whose number divides that of lanes.
    """

    def __init__(self, shards: Sequence[range], batch: int, seed: int) -> None:
        """
        Args:
            shards: the indices of each shard's samples.
            batch: images per batch over all ranks.
        """
        super().__init__(shards[-1].stop, seed)
        self.batch, self.lanes = batch, lanes(batch)
        self.width = batch // self.lanes  # of a lane
        self.distance = max(BLOCK, SPREAD // self.lanes)
        parts = [(np.arange(s.start, s.stop, BLOCK), s.stop) for s in shards]
        self.starts = np.concatenate([starts for starts, _ in parts])
        self.stops = np.concatenate([np.minimum(starts + BLOCK, stop) for starts, stop in parts])

    def _permutation(self, epoch: int) -> Integers:
        blocks = generator(self.seed, "order/blocks", epoch).permutation(len(self.starts))
        starts, lengths = self.starts[blocks], (self.stops - self.starts)[blocks]
        first = np.cumsum(lengths) - lengths  # place of each block in the sequence
        sequence = np.arange(self.size) + np.repeat(starts - first, lengths)
        moves = self.distance * generator(self.seed, "order/moves", epoch).random(self.size)
        lane = np.repeat(np.arange(self.lanes), np.diff(self._segments(epoch)))
        return sequence[np.argsort(np.arange(self.size) + moves + lane * self.distance)]

    def _places(self, numbers: Integers, epoch: int) -> Integers:
        lane = numbers % self.batch // self.width
        within = self._before(numbers, lane) - self._before(epoch * self.size, lane)
        return self._segments(epoch)[lane] + within

    def _segments(self, epoch: int) -> Integers:
        """Where each lane's segment starts, and the end of the last one."""
        every = np.arange(self.lanes)
        first, end = (self._before(e * self.size, every) for e in (epoch, epoch + 1))
        return np.append(0, np.cumsum(end - first))

    def _before(self, number: Any, lane: Integers) -> Integers:
        """How many numbers below `number` are in a lane."""
        batches, rest = np.divmod(number, self.batch)
        return batches * self.width + np.clip(rest - lane * self.width, 0, self.width)


def image_order(dataset: Any, reading: Reading, batch: int, seed: int) -> ImageOrder:
    """The order that `runtime.reading` names, for a dataset as `edm2.data.stream` takes them."""
    if reading == "random":
        return RandomOrder(len(dataset), seed)
    samples = dataset.samples
    return BlockOrder([range(len(dataset))] if samples is None else samples.ranges(), batch, seed)
