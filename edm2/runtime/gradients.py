"""Gradients that are not numbers."""

from collections.abc import Iterable

import torch


def zero_nonfinite(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Replace non-finite gradients by 0, in place; how many there were."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    count = torch.stack([(~gradient.isfinite()).sum() for gradient in gradients]).sum()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0, out=gradient)
    return count
