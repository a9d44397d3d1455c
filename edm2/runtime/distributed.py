"""The processes of one launch by `torchrun`; a plain `python` is rank 0 of 1."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist

from edm2.params import UserError

T = TypeVar("T")
CPU = torch.device("cpu")
TIMEOUT = timedelta(days=7)  # long: rank 0 may wait for another run or read all data


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    local_rank: int


def is_main_process() -> bool:
    """Whether this process writes files, tables and logs."""
    return ranks().rank == 0


def ranks() -> Ranks:
    """The ranks of this process, from torchrun's environment variables.

    Raises:
        UserError: one of these is not a whole number.
    """
    return Ranks(
        _from_environment("RANK", 0),
        _from_environment("WORLD_SIZE", 1),
        _from_environment("LOCAL_RANK", 0),
    )


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isascii() or not value.isdigit():
        raise UserError(
            f"{name}: the environment variable is {value!r}, expected a whole number. Start several "
            "processes with torchrun, which sets it; else unset it."
        )
    return int(value)


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """A process group of all ranks within the block: NCCL on GPUs, Gloo on CPUs."""
    this = ranks()
    if this.world_size > 1:
        missing = [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {this.world_size}, but {' and '.join(missing)} of the environment are not "
                "set. Start several processes with torchrun, which sets them; else unset WORLD_SIZE."
            )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield this
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def all_reduce(tensor: torch.Tensor, op: Literal["sum", "max"] = "sum") -> torch.Tensor:
    """Sum or maximum of `tensor` over the ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
    return tensor


def gather_object(value: T) -> list[T]:
    """The values of all ranks, in their order, on the main process; [value] on the others."""
    values: list[T] = [value] * (ranks().world_size if is_main_process() else 1)
    if dist.is_initialized():
        dist.gather_object(value, values if is_main_process() else None)
    return values


def receive_from_others(value: T) -> Iterator[T]:
    """The values of the other ranks, in their order, on the main process, which holds one at a time.

    Nothing on the others, whose values are sent. Every rank must iterate.
    """
    if is_main_process():
        for rank in range(1, ranks().world_size):
            received: list[Any] = [None]
            dist.recv_object_list(received, rank, device=CPU)
            yield received[0]
    else:
        dist.send_object_list([value], 0, device=CPU)


def raise_together(error: UserError | None) -> None:
    """Raise the error of the first rank that has one, on all ranks, so that none waits for another."""
    errors = [error] * ranks().world_size
    if dist.is_initialized():
        dist.all_gather_object(errors, error)
    for first in filter(None, errors):
        raise first


def share(count: int) -> range:
    """This rank's part of `range(count)`: consecutive numbers."""
    rank, size = ranks().rank, ranks().world_size
    return range(count * rank // size, count * (rank + 1) // size)


def on_main_process(compute: Callable[[], T]) -> T:
    """What `compute` returns on the main process, on all ranks; the others do not compute it.

    Raises:
        UserError: on all ranks, if the main process raises one.
    """
    if not dist.is_initialized():
        return compute()
    if is_main_process():
        try:
            value = compute()
        except UserError as error:
            dist.broadcast_object_list([None, str(error)])
            raise
        dist.broadcast_object_list([value, None])
        return value
    received: list[Any] = [None, None]
    dist.broadcast_object_list(received)
    if received[1] is not None:
        raise UserError(received[1])
    return cast(T, received[0])


def broadcast_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The main process's tensors, which are on the CPU, on all ranks; what the others pass is ignored."""
    layout = on_main_process(lambda: {name: (t.shape, t.dtype) for name, t in tensors.items()})
    if is_main_process():
        received = {name: tensor.contiguous() for name, tensor in tensors.items()}
    else:
        received = {
            name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()
        }
    if dist.is_initialized():
        for name in layout:
            dist.broadcast(received[name].reshape(-1).view(torch.uint8), 0)
    return received


def broadcast_flag(flag: bool) -> bool:
    """What the main process says, on all ranks."""
    value = torch.tensor(int(flag and is_main_process()))
    return bool(all_reduce(value, "max"))


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
