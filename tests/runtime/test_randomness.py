"""Random numbers depend on seed, purpose and index alone."""

import numpy as np
import pytest

from edm2.runtime.randomness import generator, torch_seed


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
