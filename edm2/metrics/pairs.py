"""All pairs of two sets, in chunks that fit in memory."""

from collections.abc import Iterator

import torch

CPU = torch.device("cpu")
MAX_PAIRS = 2**24  # per chunk: 128 MiB in float64


def chunks(rows: torch.Tensor, columns: int) -> Iterator[slice]:
    """Slices of `rows`, each of at most MAX_PAIRS pairs with `columns`, but of at least one row."""
    size = max(1, MAX_PAIRS // columns)
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))
