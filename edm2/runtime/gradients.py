"""Non-finite gradients."""

from collections.abc import Iterable

import torch

from edm2.runtime.distributed import all_reduce
from edm2.runtime.sharding import is_dtensor, local


def zero_nonfinite(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Replace non-finite values of gradients by 0, in place.

    On CPUs the norm shows in one pass whether there are any; on GPUs that would force a sync.

    Returns:
        How many there were, of sharded gradients on all ranks; int64 scalar.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    count = _zero([gradient for gradient in gradients if not is_dtensor(gradient)])
    sharded = [local(gradient) for gradient in gradients if is_dtensor(gradient)]
    return count + all_reduce(_zero(sharded)) if sharded else count


def _zero(gradients: list[torch.Tensor]) -> torch.Tensor:
    on_cpu = all(gradient.device.type == "cpu" for gradient in gradients)
    if on_cpu and torch.nn.utils.get_total_norm(gradients).isfinite():
        return torch.tensor(0)
    count = torch.stack([(~gradient.isfinite()).sum() for gradient in gradients]).sum()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0, out=gradient)
    return count
