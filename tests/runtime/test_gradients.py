"""Non-finite gradients."""

import pytest
import torch

from edm2.runtime import gradients as module
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


@pytest.mark.parametrize("chunk", [1, 30, 2**25])
def test_gradients_keep_their_dtypes_and_memory_formats(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Of any sizes in relation to the buffer that they pass through."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    gradients = [
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.tensor(INF),
        torch.randn(5, 7),
        torch.randn(6).bfloat16(),
        torch.randn(3, 2).T,
    ]
    gradients[0][1, 2, 3, 0] = NAN
    gradients[3][5] = -INF
    expected = [torch.where(g.isfinite(), g, 0) for g in gradients]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient.clone()
    assert zero_nonfinite(parameters) == 3
    for p, gradient, values in zip(parameters, gradients, expected, strict=True):
        assert p.grad is not None
        assert (p.grad.dtype, p.grad.stride()) == (gradient.dtype, gradient.stride())
        assert torch.equal(p.grad, values)
