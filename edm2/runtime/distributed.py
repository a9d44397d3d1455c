"""Processes of one launch, as `torchrun` starts them; a plain `python` is one rank of one."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)  # for rank 0, which may wait for another run or read all data


@dataclass(frozen=True)
class Ranks:
    rank: int
    size: int
    local: int


def is_main_process() -> bool:
    """Whether this process writes files, tables and logs."""
    return ranks().rank == 0


def ranks() -> Ranks:
    """The rank of this process, from torchrun's environment variables."""
    env = os.environ
    return Ranks(
        int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1")), int(env.get("LOCAL_RANK", "0"))
    )


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other ranks (nccl on GPUs, gloo on CPUs) for the length of the block."""
    who = ranks()
    if who.size > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield who
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def data_parallel(module: nn.Module, device: torch.device, compiled: bool = False) -> nn.Module:
    """`module`, compiled if asked for, its gradients averaged over the ranks if there are several."""
    if compiled:
        module = cast(nn.Module, torch.compile(module))
    if not dist.is_initialized():
        return module
    return DistributedDataParallel(module, [device] if device.type == "cuda" else None)


def synchronized(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """For a backward pass of one of several microbatches: ranks exchange gradients with the last."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()


def all_reduce(tensor: torch.Tensor, op: Literal["sum", "max"] = "sum") -> torch.Tensor:
    """Sum or maximum of `tensor` over the ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
    return tensor


def gathered(mine: T) -> list[T]:
    """What all ranks have, in their order, on the first; on the others what they have themselves."""
    parts: list[T] = [mine] * (ranks().size if is_main_process() else 1)
    if dist.is_initialized():
        dist.gather_object(mine, parts if is_main_process() else None)
    return parts


def broadcast_flag(flag: bool) -> bool:
    """What the main process says, on all ranks."""
    value = torch.tensor(int(flag and is_main_process()))
    return bool(all_reduce(value, "max"))


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
