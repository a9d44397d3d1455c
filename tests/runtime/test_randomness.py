"""Draws depend on seed, purpose and index, and on nothing else."""

import numpy as np
import pytest
from scipy import stats

from edm2.runtime.randomness import generator, normals, torch_seed


def test_row_depends_on_its_index_alone() -> None:
    together = normals(3, "noise", [7, 2, 7, 900], (2, 5))
    assert together.shape == (4, 2, 5)
    assert together.dtype == np.float32
    for row, index in zip(together, [7, 2, 7, 900], strict=True):
        np.testing.assert_array_equal(row, normals(3, "noise", [index], (2, 5))[0])


@pytest.mark.parametrize("other", [(1, "noise", 5), (0, "order", 5), (0, "noise", 6)])
def test_seed_purpose_and_index_each_make_a_difference(other: tuple[int, str, int]) -> None:
    a, b = generator(0, "noise", 5).random(1000), generator(*other).random(1000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # 5 standard deviations
    assert torch_seed(0, "noise", 5) != torch_seed(*other)


def test_same_key_gives_the_same_draws() -> None:
    np.testing.assert_array_equal(generator(4, "a", 1).random(9), generator(4, "a", 1).random(9))
    assert torch_seed(4, "a") == torch_seed(4, "a")


def test_torch_seed_is_one_that_torch_takes() -> None:
    assert all(0 <= torch_seed(seed, "init") < 2**63 for seed in range(50))


def test_normals_are_standard_normal() -> None:
    drawn = normals(0, "noise", range(200), (10, 10))
    n = drawn.size
    assert abs(drawn.mean()) < 4 / n**0.5
    assert abs(drawn.var() - 1) < 4 * (2 / n) ** 0.5
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
