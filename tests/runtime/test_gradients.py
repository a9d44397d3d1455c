"""Non-finite gradients."""

import pytest
import torch

from edm2.runtime.gradients import zero_nonfinite

NAN, INF = float("nan"), float("inf")


def parameter(gradient: list[float] | None) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.zeros(len(gradient or [0.0])))
    parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameter


@pytest.mark.parametrize(
    ("gradients", "expected", "count"),
    [
        ([[1.0, -2.0], [3.0]], [[1.0, -2.0], [3.0]], 0),
        ([[1.0, NAN], [3.0]], [[1.0, 0.0], [3.0]], 1),
        ([[INF, -INF], [NAN], None], [[0.0, 0.0], [0.0], None], 3),
        ([[3e38, 3e38]], [[3e38, 3e38]], 0),  # finite, though their norm is not
    ],
)
def test_non_finite_gradients_are_zeroed_and_counted(gradients, expected, count: int) -> None:
    parameters = [parameter(gradient) for gradient in gradients]
    assert zero_nonfinite(parameters) == count
    for p, values in zip(parameters, expected, strict=True):
        assert p.grad is None if values is None else torch.equal(p.grad, torch.tensor(values))
