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

PIECE_VALUES = 2**21  # of all files, or all sums, together: small enough for caches

Piece = tuple[str, int, int]  # tensor, first value, number of values


def combine(
    paths: Sequence[Path],
    names: Sequence[str],
    weights: Callable[[str], torch.Tensor],
    consume: Callable[[str, int, torch.Tensor], None],
) -> None:
    """Σ_i weights(name)[k, i] · file_i[name] for every k, piece by piece, summed in float32.

    One matrix product per piece, [sums, files] times [files, values]. As many workers as PyTorch has
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
        pieces = [(name, begin, min(size, entries[name].count - begin))
                  for name in sorted(names, key=lambda name: entries[name].begin)
                  for begin in range(0, entries[name].count, size)]  # fmt: skip
        progress = Progress("reconstruct", sum(length for _, _, length in pieces), "value")
        stack.callback(progress.close)
        room = threading.local()

        def work(piece: Piece) -> int:
            name, begin, length = piece
            if not hasattr(room, "values"):
                room.stored = torch.empty(8 * len(files) * size, dtype=torch.uint8)
                room.values = torch.empty(len(files) * size)
                room.sums = torch.empty(count * size)
            stored = room.stored.view(entries[name].dtype)[: len(files) * length]
            for file, row in zip(files, stored.view(len(files), length), strict=True):
                file.read(name, begin, row)
            values = room.values[: len(files) * length].copy_(stored).view(len(files), length)
            sums = room.sums[: count * length].view(count, length)
            torch.mm(weights(name), values, out=sums)
            consume(name, begin, sums)
            return length

        for length in stack.enter_context(_workers())(work, pieces):
            progress.advance(length)


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
            raise UserError(f"{file.path}: tensor {name}: {_described(ours)}, expected "
                            f"{_described(theirs)} as in {other.path.name}.")  # fmt: skip


def _described(entry: Entry | None) -> str:
    return "missing" if entry is None else f"{entry.dtype} of shape {list(entry.shape)}"
