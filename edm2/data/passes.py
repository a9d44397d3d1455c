"""Passes over images that ranks share. Their result is the same, to the last bit, on any number of ranks.

The images are divided into batches, always the same ones, of which each rank takes consecutive ones. The
results of batches are merged along a fixed binary tree, so rounding does not depend on who computed what.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Generic, TypeVar

import torch

from edm2.data.damage import refuse_damaged
from edm2.data.decoding import DamagedImageError
from edm2.data.images import ImageDataset
from edm2.params import UserError
from edm2.runtime.background import background_thread
from edm2.runtime.distributed import is_main_process, raise_together, receive_from_others, share
from edm2.runtime.progress import Progress

T = TypeVar("T")
Compute = Callable[[range, torch.Tensor, torch.Tensor], T]


def reduce_batches(
    images: ImageDataset,
    indices: Sequence[int],
    batch_size: int,
    compute: Compute[T],
    merge: Callable[[T, T], T],
    title: str,
) -> T | None:
    """The merged results of all batches of some images, on the main process; None on the others.

    Every rank must call this. The next batch is read while one is computed.

    Args:
        indices: the images, at least one, in the order in which batches are formed.
        compute: compute(numbers, pixels, labels) is the result of a batch: the positions of its images
            in `indices`, the images uint8 [N, 3, R, R], and their labels int64 [N].
        merge: merge(a, b) is the result of neighboring batches, a before b; it may change both.
        title: what is computed, for progress.

    Raises:
        UserError: reading or computing failed on a rank; all ranks raise the same. Damaged images are
            listed, those of all ranks.
    """
    tree, error, damaged = MergeTree(merge), None, list[str]()
    batches = {
        k: range(k * batch_size, min((k + 1) * batch_size, len(indices)))
        for k in share(-(-len(indices) // batch_size))
    }
    try:
        _add_share(tree, images, indices, batches, compute, title)
    except DamagedImageError as problem:
        ours = [int(indices[n]) for numbers in batches.values() for n in numbers]
        damaged = images.damaged(ours) or [str(problem)]
    except UserError as problem:
        error = problem
    refuse_damaged(damaged, len(indices), images.after_repair)
    raise_together(error)
    for nodes in receive_from_others(tree.nodes):
        tree.add_nodes(nodes)
    return tree.total() if is_main_process() else None


def _add_share(
    tree: "MergeTree[T]",
    images: ImageDataset,
    indices: Sequence[int],
    batches: Mapping[int, range],
    compute: Compute[T],
    title: str,
) -> None:
    """Add the results of this rank's batches."""
    progress = Progress(title, sum(map(len, batches.values())), "img")
    read = (images.batch([int(indices[n]) for n in numbers]) for numbers in batches.values())
    for (k, numbers), (pixels, labels) in zip(batches.items(), ahead(read), strict=True):
        tree.add(k, compute(numbers, pixels, labels))
        progress.advance(len(numbers))
    progress.close()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items; a thread makes the next one while the caller uses one."""
    iterator, end = iter(items), object()
    with background_thread() as pool:
        following = pool.submit(next, iterator, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]


class MergeTree(Generic[T]):
    """Merges values with the numbers 0, 1, 2, … in pairs, pairs of pairs, and so on.

    A node at `level` and `position` is the merged value of 2^level numbers from position · 2^level on.
    Only nodes that still wait for their neighbor are held: at most 2·log2(n) of n consecutive numbers.
    """

    def __init__(self, merge: Callable[[T, T], T]) -> None:
        self.merge = merge
        self.nodes: dict[tuple[int, int], T] = {}  # by level and position

    def add(self, position: int, value: T, level: int = 0) -> None:
        """Add the value of a number, or the node at a higher level."""
        while (neighbor := (level, position ^ 1)) in self.nodes:
            other = self.nodes.pop(neighbor)
            pair = (other, value) if position % 2 else (value, other)
            level, position, value = level + 1, position // 2, self.merge(*pair)
        self.nodes[level, position] = value

    def add_nodes(self, nodes: Mapping[tuple[int, int], T]) -> None:
        """Add everything from the tree of other numbers."""
        for (level, position), value in nodes.items():
            self.add(position, value, level)

    def total(self) -> T:
        """All values merged; the same, bit by bit, in whatever order they were added."""
        by_number = sorted(self.nodes.items(), key=lambda node: node[0][1] << node[0][0])
        return reduce(self.merge, (value for _, value in by_number))
