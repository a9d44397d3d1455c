"""Division by magnitudes (EDM2 eq. 66), with its gradient in as few passes over memory as it needs."""

import math
from typing import Any

import torch

EPSILON = 1e-4  # of weight norm, pixel norm, and group norm without mean subtraction


def unit_magnitude(x: torch.Tensor, dims: tuple[int, ...], scale: float) -> torch.Tensor:
    """scale · x / (‖x‖/√n + ε): magnitude `scale` over `dims`, n their product.

    Norms are computed in float32, or in the precision of `x` if that is higher.
    """
    result: torch.Tensor = _UnitMagnitude.apply(x, dims, scale)
    return result


def norm(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """‖x‖ over `dims`, which are kept with size 1, in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.is_cpu and min(x.stride(d) for d in dims) > 1:  # vector_norm is five times slower there
        return x.to(dtype).square().sum(dims, keepdim=True).sqrt()
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=dtype)


class _UnitMagnitude(torch.autograd.Function):
    """y = s·m·x with m = 1/(ε + ‖x‖/√n).

    As ∂m/∂x = −m²/√n · x/‖x‖, the gradient is s·(m·g − m²/(√n·‖x‖)·⟨g, x⟩·x).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dims: tuple[int, ...], scale: float) -> torch.Tensor:
        length, root = norm(x, dims), math.sqrt(math.prod([x.shape[d] for d in dims]))
        # s·m, in three operations
        factor = (length / (root * scale) + EPSILON / scale).reciprocal()
        ctx.save_for_backward(x, length, factor)
        ctx.dims, ctx.divisor = dims, root * scale
        return x * factor.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, length, factor = ctx.saved_tensors
        wide = x.to(length.dtype)  # coefficients overflow fp16 where x is small
        product = (grad * wide).sum(ctx.dims, keepdim=True)
        tiny = torch.finfo(length.dtype).tiny  # where x is zero, so is the product
        along_x = product * factor * factor / length.clamp_min(tiny)
        result = (grad * factor).addcmul_(wide, along_x, value=-1 / ctx.divisor)
        return result.to(x.dtype), None, None
