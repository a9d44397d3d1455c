"""Weighted sums of many files of tensors, all in one pass and in little memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from edm2.ema.tensorfile import Entry, TensorReader
from edm2.params import UserError
from edm2.runtime.progress import Progress

PIECE_VALUES = 2**22  # of all files, or all sums, together: small enough for caches

Piece = tuple[str, int, int]  # tensor, first value, number of values


def combine(
    paths: Sequence[Path], names: Sequence[str], weights: Callable[[str], torch.Tensor]
) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Σ_i weights(name)[k, i] · file_i[name] for every k, piece by piece, summed in float32.

    One matrix product per piece, [sums, files] times [files, values]; the next piece is read
    meanwhile. Memory holds some pieces of PIECE_VALUES, whatever the number and size of files and
    sums.

    Args:
        paths: safetensors files with the same tensors.
        names: tensors to combine.
        weights: float32 [sums, files] for a tensor.

    Yields:
        tensor, number of its first value here, and sums float32 [sums, values], new ones each time.

    Raises:
        UserError: the files' tensors differ, or one is truncated.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(closing(TensorReader(path))) for path in paths]
        for file in files[1:]:
            _hold_against(file, files[0])
        entries = files[0].entries
        size = max(1, PIECE_VALUES // max(len(files), len(weights(names[0])) if names else 1))
        pieces = [(name, begin, min(size, entries[name].count - begin))
                  for name in sorted(names, key=lambda name: entries[name].begin)
                  for begin in range(0, entries[name].count, size)]  # fmt: skip
        progress = Progress("reconstruct", sum(count for _, _, count in pieces), "value")
        stack.callback(progress.close)
        wide = torch.empty(len(files) * size)
        for (name, begin, count), stored in _read_ahead(stack, files, pieces, size):
            values = wide[: stored.numel()].view(stored.shape).copy_(stored)
            yield name, begin, weights(name) @ values
            progress.advance(count)


def _read_ahead(
    stack: ExitStack, files: Sequence[TensorReader], pieces: Sequence[Piece], size: int
) -> Iterator[tuple[Piece, torch.Tensor]]:
    """Each piece with its values [files, values] in the files' dtype, one read in advance."""
    ahead = stack.enter_context(ThreadPoolExecutor(1))
    room = [torch.empty(8 * len(files) * size, dtype=torch.uint8) for _ in range(2)]

    def read(number: int) -> torch.Tensor:
        name, begin, count = pieces[number]
        dtype = files[0].entries[name].dtype
        space = room[number % 2].view(dtype)[: len(files) * count].view(len(files), count)
        for file, row in zip(files, space, strict=True):
            file.read(name, begin, row)
        return space

    coming = ahead.submit(read, 0) if pieces else None
    for number, piece in enumerate(pieces):
        assert coming is not None
        found = coming.result()
        coming = ahead.submit(read, number + 1) if number + 1 < len(pieces) else None
        yield piece, found


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
