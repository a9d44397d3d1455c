"""The gradient of normalization, compared with autograd on the plain formula."""

import pytest
import torch

from edm2.diffusion.unit_magnitude import EPSILON, norm, unit_magnitude

DIMS = [(1,), (1, 2, 3), (2,)]


def plain(x, dims, scale):
    mean_square = x.square().mean(dims, keepdim=True)
    return scale * x / (EPSILON + mean_square.sqrt())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dims", DIMS)
def test_values_and_gradients_in_float64(dims, memory_format):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64).to(memory_format=memory_format)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit_magnitude(x, dims, 0.7), x)
    result, expected = unit_magnitude(x, dims, 0.7), plain(x, dims, 0.7)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(x)
    a, b = (torch.autograd.grad(y, x, g)[0] for y in (result, expected))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_in_lower_precision(dtype):
    """Of values near ε as well, and of large ones, whose squares overflow 16 bits."""
    x = torch.randn(3, 64, 5, 6) * torch.tensor([1e-3, 1.0, 250.0])[:, None, None, None]
    x = x.to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    g = torch.randn(x.shape).to(dtype)
    (gradient,) = torch.autograd.grad(unit_magnitude(x, (1,), 1.0), x, g)
    (expected,) = torch.autograd.grad(plain(exact, (1,), 1.0), exact, g.double())
    assert gradient.dtype == dtype
    for row, expected_row in zip(gradient.double(), expected, strict=True):
        scale = float(expected_row.abs().max())
        error = float((row - expected_row).abs().max())
        assert error < {torch.float32: 1e-5}.get(dtype, 0.03) * scale


def test_the_gradient_at_zero_is_that_of_division_by_epsilon():
    x = torch.zeros(2, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(unit_magnitude(x, (1,), 3.0).sum(), x)
    torch.testing.assert_close(gradient, torch.full((2, 8), 3 / EPSILON))


@pytest.mark.parametrize("dims", DIMS)
def test_norms_are_the_same_in_both_memory_formats(dims):
    x = torch.randn(3, 4, 5, 6)
    expected = torch.linalg.vector_norm(x.double(), dim=dims, keepdim=True).float()
    torch.testing.assert_close(norm(x, dims), expected)
    torch.testing.assert_close(norm(x.to(memory_format=torch.channels_last), dims), expected)
    assert norm(torch.full((1, 4, 2, 2), 300.0).half(), (1,)).max() == 600
