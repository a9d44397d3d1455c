"""Gradients that are not numbers."""

from collections.abc import Iterable

import torch


def zero_nonfinite(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Replace non-finite gradients by 0, in place; how many there were.

    On CPUs one pass for the norm shows that all is well; GPUs would have to be waited for.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    on_cpu = all(gradient.device.type == "cpu" for gradient in gradients)
    if on_cpu and torch.nn.utils.get_total_norm(gradients).isfinite():
        return torch.tensor(0)
    count = torch.stack([(~gradient.isfinite()).sum() for gradient in gradients]).sum()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0, out=gradient)
    return count
