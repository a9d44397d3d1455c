"""The endless stream of training batches, read ahead by worker processes or by a thread.

Each rank has a share of every batch, and each of its workers a share of that. Which images these are follows
from `ImageOrder` alone, so the stream depends on neither.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch

from edm2.data.block_buffer import BlockBuffer
from edm2.data.order import BLOCK, BlockOrder, ImageOrder, image_order
from edm2.data.packing import Packed, Tensors, joined
from edm2.data.worker_pool import from_workers
from edm2.params import UserError
from edm2.params.runtime import Runtime
from edm2.runtime.background import background_thread
from edm2.runtime.distributed import Ranks, ranks
from edm2.runtime.workers import cores

# smaller datasets are read by a thread, unless runtime.workers is a number
SMALL_BYTES = 2**26  # in shards
SMALL_IMAGES = 4096  # without shards
MAX_WORKERS = 16  # of a rank, unless runtime.workers is a number


class Reader(Protocol):
    """Reads images of a training. It is pickled for workers."""

    @property
    def dataset(self) -> Any:
        """Has a length, and the attribute `samples`: the shards, or None."""
        ...

    def __call__(self, numbers: range, indices: list[int]) -> Tensors:
        """Tensors [N, ...] of the images at `indices`.

        Args:
            numbers: their numbers in the training, to key random decisions with.
        """
        ...


@dataclass(frozen=True)
class Share:
    """The images `start` up to `stop` of every batch, from the batch at `nimg` on."""

    read: Reader
    order: ImageOrder
    batch: int
    nimg: int
    start: int
    stop: int

    def parts(self) -> Iterator[Packed]:
        """This share of each batch."""
        with self._buffered():
            nimg = self.nimg
            while True:
                numbers = range(nimg + self.start, nimg + self.stop)
                yield Packed.of(self.read(numbers, self.order.indices(numbers)))
                nimg += self.batch

    @contextmanager
    def _buffered(self) -> Iterator[None]:
        """Within the block, the dataset reads blocks, if the order is one of blocks."""
        order = self.order
        if not isinstance(order, BlockOrder) or self.read.dataset.samples is None:
            yield
            return
        lanes = (self.stop - self.start) // order.width
        open_blocks = order.distance // BLOCK + 4  # of a lane: its distance, and the ends
        samples = self.read.dataset.samples
        samples.buffer = BlockBuffer(samples, lanes * open_blocks)
        try:
            yield
        finally:
            samples.buffer = None


def stream(
    read: Reader, batch: int, seed: int, nimg: int, runtime: Runtime, device: torch.device
) -> Iterator[Tensors]:
    """This rank's part of each batch from time `nimg` on: the images' numbers, then what `read` returns.

    Args:
        batch: images per batch over all ranks.
        nimg: training time to start at, in images.
        device: where the tensors will be.

    Raises:
        UserError: lanes of the order of blocks cannot be shared by these ranks and workers. Whatever
            `read` raises in a worker is raised here.
    """
    process = ranks()
    order = image_order(read.dataset, runtime.reading, batch, seed)
    workers = count_workers(runtime, read.dataset, order, batch, process)
    size = batch // process.world_size
    first = process.rank * size
    bounds = [first + size * k // max(1, workers) for k in range(max(1, workers) + 1)]
    shares = [Share(read, order, batch, nimg, *ends) for ends in pairwise(bounds)]
    parts = from_workers(shares) if workers else _from_thread(shares[0])
    for tensors in joined(parts, device):
        yield torch.arange(nimg + first, nimg + first + size, device=device), *tensors
        nimg += batch


def _from_thread(share: Share) -> Iterator[list[Packed]]:
    """One part is read ahead, in a thread."""
    parts, pinned = share.parts(), torch.cuda.is_available()

    def read() -> list[Packed]:
        part = next(parts)
        return [part.pin_memory() if pinned else part]

    with background_thread() as pool:
        ahead = pool.submit(read)
        while True:
            current, ahead = ahead, pool.submit(read)
            yield current.result()


def count_workers(
    runtime: Runtime, dataset: Any, order: ImageOrder, batch: int, process: Ranks
) -> int:
    """The number of worker processes of this rank; 0: a thread reads.

    Raises:
        UserError: see `stream`.
    """
    ranks = process.world_size
    workers = _default_workers(dataset) if runtime.workers is None else runtime.workers
    workers = min(workers, batch // ranks)
    if not isinstance(order, BlockOrder):
        return workers
    if runtime.workers is None:
        fitting = (n for n in range(workers, 0, -1) if order.lanes % (ranks * n) == 0)
        workers = next(fitting, 0)
    if order.lanes % (ranks * max(1, workers)):
        raise UserError(
            f"runtime.workers: {runtime.workers}: with runtime.reading: blocks, expected ranks × workers to "
            f"divide the {order.lanes} lanes of a batch of {batch}; there are {ranks} ranks. Set another "
            "number, start other ranks, or set runtime.reading to random."
        )
    return workers


def _default_workers(dataset: Any) -> int:
    samples = dataset.samples
    if samples is None:
        small = len(dataset) < SMALL_IMAGES
    else:
        small = sum(shard.bytes for shard in samples.shards) < SMALL_BYTES
    return 0 if small else min(cores(), MAX_WORKERS)
