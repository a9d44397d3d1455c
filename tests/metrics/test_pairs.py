"""Chunks of pairs."""

import pytest
import torch

from edm2.metrics.pairs import MAX_PAIRS, chunks


@pytest.mark.parametrize(("rows", "columns"), [(50_000, 50_000), (7, 3), (5, 2 * MAX_PAIRS)])
def test_chunks_contain_each_row_once_and_at_most_the_limit_of_pairs(rows, columns):
    """A row is never split, even if it has more pairs than the limit."""
    slices = list(chunks(torch.empty(rows, 1), columns))
    assert [k for chunk in slices for k in range(chunk.start, chunk.stop)] == list(range(rows))
    sizes = [chunk.stop - chunk.start for chunk in slices]
    assert max(sizes) * columns <= max(MAX_PAIRS, columns)
    assert max(sizes) == max(1, min(rows, MAX_PAIRS // columns))
