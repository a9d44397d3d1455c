"""Blocks of pairs."""

import pytest
import torch

from edm2.metrics.pairs import PAIRS, chunks


@pytest.mark.parametrize(("rows", "columns"), [(50_000, 50_000), (7, 3), (5, 2 * PAIRS)])
def test_chunks_have_each_row_once_and_no_more_pairs_than_fit(rows, columns):
    """A row is never cut."""
    found = list(chunks(torch.empty(rows, 1), columns))
    assert [k for chunk in found for k in range(chunk.start, chunk.stop)] == list(range(rows))
    sizes = [chunk.stop - chunk.start for chunk in found]
    assert max(sizes) * columns <= max(PAIRS, columns)
    assert max(sizes) == max(1, min(rows, PAIRS // columns))
