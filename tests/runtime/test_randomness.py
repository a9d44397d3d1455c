"""Random numbers depend on seed, purpose and index alone."""

import numpy as np
import pytest
from scipy import stats

from edm2.runtime.randomness import generator, normals, torch_seed


def test_a_row_depends_on_its_index_alone() -> None:
    rows = normals(3, "noise", [7, 2, 7, 900], (2, 5))
    assert rows.shape == (4, 2, 5)
    assert rows.dtype == np.float32
    for row, index in zip(rows, [7, 2, 7, 900], strict=True):
        np.testing.assert_array_equal(row, normals(3, "noise", [index], (2, 5))[0])


@pytest.mark.parametrize("other", [(1, "noise", 5), (0, "order", 5), (0, "noise", 6)])
def test_seed_purpose_and_index_all_matter(other: tuple[int, str, int]) -> None:
    a, b = generator(0, "noise", 5).random(1000), generator(*other).random(1000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # 5 standard deviations
    assert torch_seed(0, "noise", 5) != torch_seed(*other)


def test_the_same_key_gives_the_same_numbers() -> None:
    np.testing.assert_array_equal(generator(4, "a", 1).random(9), generator(4, "a", 1).random(9))
    assert torch_seed(4, "a") == torch_seed(4, "a")


def test_torch_seed_is_in_the_range_of_torch() -> None:
    assert all(0 <= torch_seed(seed, "init") < 2**63 for seed in range(50))


def test_normals_are_standard_normal() -> None:
    values = normals(0, "noise", range(200), (10, 10))
    n = values.size
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
