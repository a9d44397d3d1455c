"""All pairs of two sets, in chunks that fit into memory."""

from collections.abc import Iterator

import torch

CPU = torch.device("cpu")
PAIRS = 2**24  # at once: 128 MiB in float64


def chunks(rows: torch.Tensor, columns: int) -> Iterator[slice]:
    """Slices of `rows`, so few at a time that with `columns` each they are at most PAIRS pairs."""
    size = max(1, PAIRS // columns)
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))
