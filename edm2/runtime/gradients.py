"""Non-finite gradients."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

import torch

from edm2.runtime.distributed import all_reduce
from edm2.runtime.sharding import is_dtensor, local

CHUNK = 2**25  # values at once, in two buffers of this size


def zero_nonfinite(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """Replace non-finite values of gradients by 0, in place.

    On CPUs the norm shows in one pass whether there are any; on GPUs that would force a sync. There
    gradients pass through a buffer: a few operations on all of them rather than several on each.

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
    return torch.stack([_zero_nonfinite(chunk) for chunk in _chunks(gradients)]).sum()


def _zero_nonfinite(gradients: list[torch.Tensor]) -> torch.Tensor:
    """`zero_nonfinite` of gradients of one dtype on one device, by a copy of all of them."""
    size = sum(gradient.numel() for gradient in gradients)
    values = torch.empty(size, dtype=gradients[0].dtype, device=gradients[0].device)
    torch._foreach_copy_(_views(values, gradients), gradients)
    finite = values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    torch._foreach_copy_(gradients, _views(finite, gradients))
    return (finite != values).sum()


def _views(values: torch.Tensor, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Consecutive parts of `values` in the shapes and strides of `tensors`, which have no gaps: only
    between equal strides does PyTorch copy a list in one operation.
    """
    ends = accumulate(tensor.numel() for tensor in tensors)
    return [
        values.as_strided(tensor.shape, tensor.stride(), end - tensor.numel())
        for tensor, end in zip(tensors, ends, strict=True)
    ]


def _chunks(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbors of one dtype and device, of up to CHUNK values or a single tensor."""
    chunk: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        kind = gradient.dtype, gradient.device
        other = bool(chunk) and kind != (chunk[0].dtype, chunk[0].device)
        if chunk and (other or size + gradient.numel() > CHUNK):
            yield chunk
            chunk, size = [], 0
        chunk.append(gradient)
        size += gradient.numel()
    if chunk:
        yield chunk
