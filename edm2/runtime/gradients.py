"""Non-finite gradients."""

from collections.abc import Iterable

import torch


def zero_nonfinite(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Replace non-finite values of gradients by 0, in place.

    On CPUs the norm shows in one pass whether there are any; on GPUs that would force a sync.

    Returns:
        How many there were, int64 scalar.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    on_cpu = all(gradient.device.type == "cpu" for gradient in gradients)
    if on_cpu and torch.nn.utils.get_total_norm(gradients).isfinite():
        return torch.tensor(0)
    count = torch.stack([(~gradient.isfinite()).sum() for gradient in gradients]).sum()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0, out=gradient)
    return count
