"""The endless stream of training batches.

Image number n of a training run (n = 0, 1, 2, …) is entry n mod N of the permutation of epoch n // N.
So the stream depends on (seed, n) alone: it can start anywhere, and ranks share each batch evenly.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edm2.runtime.distributed import ranks
from edm2.runtime.randomness import generator

T = TypeVar("T")


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return generator(seed, "order", epoch).permutation(size)


def shuffled_index(n: int, size: int, seed: int) -> int:
    """The index, in a dataset of `size` images, of image number `n` of the training run."""
    return int(_permutation(size, seed, n // size)[n % size])


def stream(
    read: Callable[[range, list[int]], T], size: int, batch: int, seed: int, nimg: int
) -> Iterator[T]:
    """This rank's part of each batch from time `nimg` on; one batch is read ahead in a thread.

    Args:
        read: read(numbers, indices) → a batch of the images at `indices`. `numbers` are their numbers
            in the training run, to key per-image random numbers with.
        size: images in the dataset.
        batch: images per batch over all ranks.
        nimg: training time to start at, in images.
    """
    process = ranks()
    rank_batch = batch // process.world_size

    def read_at(nimg: int) -> T:
        first = nimg + process.rank * rank_batch
        numbers = range(first, first + rank_batch)
        return read(numbers, [shuffled_index(n, size, seed) for n in numbers])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read_at, nimg)
        while True:
            current, nimg = ahead, nimg + batch
            ahead = pool.submit(read_at, nimg)
            yield current.result()
