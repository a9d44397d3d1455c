"""Weighted sums of many files of tensors, all in one pass and in little memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch

from edm2.ema.tensorfile import Entry, TensorReader
from edm2.params import UserError
from edm2.runtime.progress import Progress

PIECE_VALUES = 2**23  # of all files, or all sums, together: few calls to the system
PRODUCT_VALUES = 2**20  # of a piece, multiplied at a time: small enough for caches

Piece = tuple[str, int, int]  # tensor, first value, number of values


def combine(
    paths: Sequence[Path],
    names: Sequence[str],
    weights: Callable[[str], torch.Tensor],
    consume: Callable[[str, int, torch.Tensor], None],
) -> None:
    """Σ_i weights(name)[k, i] · file_i[name] for every k, piece by piece, summed in float32.

    By matrix products, [sums, files] times [files, values]. As many workers as PyTorch has
    threads take the pieces, each with one thread from reading to consuming. Memory holds some pieces
    of PIECE_VALUES per worker, whatever the number and size of files and sums.

    Args:
        paths: safetensors files with the same tensors.
        names: tensors to combine.
        weights: float32 [sums, files] for a tensor.
        consume: takes a tensor, the number of its first value here, and the sums float32
            [sums, values]; is called by several threads, and the sums are good until it returns.

    Raises:
        UserError: the files' tensors differ, or one is truncated; or what `consume` raises.
    """
    if not names:
        return
    with ExitStack() as stack:
        files = [stack.enter_context(closing(TensorReader(path))) for path in paths]
        for file in files[1:]:
            _hold_against(file, files[0])
        entries = files[0].entries
        count = len(weights(names[0]))
        size = max(1, PIECE_VALUES // max(len(files), count))
        pieces = [
            (name, begin, min(size, entries[name].count - begin))
            for name in sorted(names, key=lambda name: entries[name].begin)
            for begin in range(0, entries[name].count, size)
        ]
        progress = Progress("reconstruct", sum(length for _, _, length in pieces), "value")
        stack.callback(progress.close)
        rooms = threading.local()

        def work(piece: Piece) -> int:
            name, begin, length = piece
            if not hasattr(rooms, "own"):
                rooms.own = _Room(files, count, size)
            consume(name, begin, rooms.own.sums_of(piece, weights(name)))
            return length

        for length in stack.enter_context(_workers())(work, pieces):
            progress.advance(length)


class _Room:
    """A worker's own memory for one piece: as stored, in float32, and its sums."""

    def __init__(self, files: Sequence[TensorReader], count: int, size: int) -> None:
        """
        Args:
            count: number of sums.
            size: most values of a piece.
        """
        self.files, self.count = files, count
        self.step = min(size, max(1, PRODUCT_VALUES // max(len(files), count)))
        self.stored = torch.empty(8 * len(files) * size, dtype=torch.uint8)
        self.bytes = self.stored.numpy().data
        self.values = torch.empty(len(files) * self.step)
        self.sums = torch.empty(count * size)

    def sums_of(self, piece: Piece, weights: torch.Tensor) -> torch.Tensor:
        """weights [sums, files] times what the files hold of the piece: float32 [sums, values]."""
        name, begin, length = piece
        shape = (len(self.files), length)
        dtype = self.files[0].entries[name].dtype
        stored = self.stored.view(dtype)[: len(self.files) * length].view(shape)
        row = length * dtype.itemsize
        for k, file in enumerate(self.files):
            file.read(name, begin, self.bytes[k * row : (k + 1) * row])
        sums = self.sums[: self.count * length].view(self.count, length)
        for part, out in zip(stored.split(self.step, 1), sums.split(self.step, 1), strict=True):
            values = self.values[: part.numel()].view(part.shape).copy_(part)
            torch.mm(weights, values, out=out)
        return sums


@contextmanager
def _workers() -> Iterator[Callable[[Callable[[Piece], int], Sequence[Piece]], Iterator[int]]]:
    """A map over pieces by several threads, each of which computes with one.

    Threads that share their work inside single operations would wait for each other here.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _hold_against(file: TensorReader, other: TensorReader) -> None:
    for name in sorted(file.entries.keys() | other.entries.keys()):
        ours, theirs = (f.entries.get(name) for f in (file, other))
        if (
            ours is None
            or theirs is None
            or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape)
        ):
            raise UserError(
                f"{file.path}: tensor {name}: {_described(ours)}, expected "
                f"{_described(theirs)} as in {other.path.name}."
            )


def _described(entry: Entry | None) -> str:
    return "missing" if entry is None else f"{entry.dtype} of shape {list(entry.shape)}"
