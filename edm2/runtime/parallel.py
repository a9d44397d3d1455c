"""Modules that several ranks train together: DDP, or FSDP2 with parameters sharded over the ranks."""

import contextlib
import warnings
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edm2.runtime.sharding import is_dtensor


def data_parallel(module: nn.Module, device: torch.device, compiled: bool = False) -> nn.Module:
    """`module`, optionally compiled, with gradients averaged over the ranks if there are several.

    Sharded modules are returned as they are: FSDP2 averages their gradients, and what is compiled of them
    is so already. Buffers must stay the same on all ranks, which exchange them only here.
    """
    if is_sharded(module):
        return module
    if compiled:
        module = cast(nn.Module, torch.compile(module))
    if not dist.is_initialized():
        return module
    # of 1×1 convolutions, whose strides of length 1 mean nothing
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    parallel = DistributedDataParallel(
        module, [device] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )
    parallel.broadcast_buffers = False  # after the first time
    _form_buckets(parallel)
    return parallel


def _form_buckets(parallel: DistributedDataParallel) -> None:
    """Let DDP divide the gradients into buckets, from those of the last parameters to the first.

    It does so after the first backward pass of a process. On more than two ranks the order of sums, and so
    their rounding, depends on the buckets: the first step after a resume would not give the same bits.
    """
    module = parallel.module
    parameters = [p for p in module.parameters() if p.requires_grad]
    own = vars(module).get("forward")  # a compiled module has one
    setattr(module, "forward", lambda: sum(p.sum() for p in parameters))  # noqa: B010
    parallel().backward()
    if own is None:
        delattr(module, "forward")
    else:
        setattr(module, "forward", own)  # noqa: B010
    for parameter in parameters:
        parameter.grad = None


def synchronized(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Context of the forward and backward pass of one microbatch.

    With DDP, ranks exchange gradients in the last one only. Sharded modules do in each: otherwise a
    rank would hold the gradients of whole parameters.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()


def shard(module: nn.Module, parts: Iterable[nn.Module], device: torch.device) -> None:
    """Shard the parameters of `module` by rows over all ranks, in place.

    All ranks must have the same values. A rank has whole parameters only while it uses them: those of
    one of the `parts` at a time, and those of the rest.

    Args:
        parts: submodules that run one after another and share no parameters.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    scalars = set(_scalars(module))  # all ranks have them: FSDP2 shards tensors with rows only
    for each in (*parts, module):
        fully_shard(each, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)


def is_sharded(module: nn.Module) -> bool:
    return any(map(is_dtensor, module.parameters()))


def average_scalar_gradients(module: nn.Module) -> None:
    """Average over the ranks what FSDP2 leaves out in a sharded module: gradients of scalars."""
    gradients = [scalar.grad for scalar in _scalars(module) if scalar.grad is not None]
    if gradients:
        mean = torch.stack(gradients) / dist.get_world_size()
        dist.all_reduce(mean)
        torch._foreach_copy_(gradients, mean.unbind())


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.ndim == 0]
