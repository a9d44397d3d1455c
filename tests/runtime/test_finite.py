"""Values that are not finite are refused and named."""

import numpy as np
import pytest
import torch

from edm2.params.errors import NotFiniteError
from edm2.runtime.finite import listed, nonfinite_rows, nonfinite_tensors, require_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_one_value_is_enough(kind, value: float) -> None:
    with pytest.raises(NotFiniteError, match="latents: 1 of 4 values .* Train again."):
        require_finite(kind([[1.0, value], [3e38, 0.0]]), "latents", "Train again.")
    require_finite(kind([[1.0, 3e38]]), "latents", "")


def test_rows_with_a_value_that_is_not_finite() -> None:
    values = torch.zeros(4, 2, 3)
    values[1, 0, 2], values[3, 1, 0] = NAN, INF
    assert nonfinite_rows(values) == [1, 3]


def test_tensors_of_a_state_are_named_by_their_keys() -> None:
    good, bad = torch.zeros(2), torch.tensor([0.0, -INF])
    state = {
        "a": {"b": bad, "c": good},
        "d": [good, {0: bad.half()}],
        "e": torch.tensor(3),
        "f": "x",
    }
    assert nonfinite_tensors(state) == ["a.b", "d.1.0"]
    assert nonfinite_tensors({"e": torch.tensor(3)}) == []


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(list("abcde")) == "a, b, c and 2 more"
