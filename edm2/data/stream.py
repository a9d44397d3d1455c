"""The endless stream of training batches.

Image number n of a training (n = 0, 1, 2, …) is entry n mod N of the permutation of epoch n // N.
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
def _order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return generator(seed, "order", epoch).permutation(size)


def image_at(n: int, size: int, seed: int) -> int:
    """Which of `size` images is number `n` of the training."""
    return int(_order(size, seed, n // size)[n % size])


def stream(
    read: Callable[[range, list[int]], T], size: int, batch: int, seed: int, nimg: int
) -> Iterator[T]:
    """This rank's part of each batch from time `nimg` on, read one batch ahead.

    Args:
        read: read(numbers, indices) makes a batch of the images `indices`, which are the images
            number `numbers` of the training (numbers key per-sample randomness).
        size: images in the data set.
        batch: images per batch over all ranks.
    """
    who = ranks()
    share = batch // who.size

    def read_at(start: int) -> T:
        first = start + who.rank * share
        numbers = range(first, first + share)
        return read(numbers, [image_at(n, size, seed) for n in numbers])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read_at, nimg)
        while True:
            current, nimg = ahead, nimg + batch
            ahead = pool.submit(read_at, nimg)
            yield current.result()
