"""The processes of one launch by `torchrun`; a plain `python` is rank 0 of 1."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from edm2.params import UserError
from edm2.runtime.peers import LateRankError, PeerFailedError, Peers, set_current
from edm2.runtime.torchrun import ATTEMPT

T = TypeVar("T")
CPU = torch.device("cpu")
FOREVER = timedelta(days=365)  # of waits that end by themselves: a beat says who is gone
MARGIN = 60.0  # seconds that PyTorch's collectives wait longer than ours, which name who is late
SHORTEST_PAUSE, LONGEST_PAUSE = 2e-5, 0.02  # seconds between two questions whether all have arrived


@dataclass(frozen=True)
class Group:
    """The ranks of a launch.

    Attributes:
        control: Gloo, for what is on the host. Its waits are ended by `_wait`, in Python, where signals
            and failures of other ranks act. PyTorch's default group is for gradients.
    """

    control: dist.ProcessGroup
    peers: Peers


_group: Group | None = None


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
def process_group(device: torch.device, timeout_minutes: float) -> Iterator[Ranks]:
    """A process group of all ranks within the block: NCCL on GPUs, Gloo on CPUs.

    After an error it stays as it is: whoever reports the error ends the process, and the other ranks
    must know the reason before their connections break.

    Args:
        timeout_minutes: see `runtime.timeout_minutes`.

    Raises:
        UserError: the environment does not say where the other ranks are.
    """
    this = ranks()
    if this.world_size == 1:
        yield this
        return
    _start_group(device, this, 60 * timeout_minutes)
    yield this
    _end_group()


def _start_group(device: torch.device, this: Ranks, timeout: float) -> None:
    global _group
    missing = [n for n in ("MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {this.world_size}, but {' and '.join(missing)} of the environment are not "
            "set. Start several processes with torchrun, which sets them; else unset WORLD_SIZE."
        )
    on_gpu, limit = device.type == "cuda", timedelta(seconds=timeout + MARGIN)
    store, *_ = next(rendezvous("env://", this.rank, this.world_size, timeout=limit))
    store.set_timeout(limit)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=_of_attempt("torch", store),
        rank=this.rank,
        world_size=this.world_size,
        timeout=limit,
        device_id=device if on_gpu else None,
    )
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=limit,
    )
    peers = Peers(_of_attempt("peers", store), this.rank, this.world_size, timeout)
    control = dist.new_group(backend="gloo", timeout=FOREVER)
    assert isinstance(control, dist.ProcessGroup)  # this rank is in it
    _group = Group(control, peers)
    _wait_for_others()
    peers.start()
    set_current(peers)


def _of_attempt(name: str, store: Any) -> Any:
    """A part of `store` for what torchrun has started now.

    After a crash of a process it keeps its store, in which addresses of processes before are wrong.
    """
    attempt = os.environ.get(ATTEMPT) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"edm2/{attempt}/{name}", store)  # type: ignore[attr-defined]


def _end_group() -> None:
    """All ranks leave together: none takes another one's end for a failure."""
    global _group
    assert _group is not None
    _group.peers.leaving = True
    _wait_for_others()
    _group.peers.close()
    set_current(None)
    _group = None
    dist.destroy_process_group()


def _wait_for_others(timeout: float | None = None) -> None:
    """Until all ranks are here: however long that takes, or at most `timeout` seconds.

    Signals act meanwhile, and failures of other ranks.
    """
    if _group is not None:
        _wait(dist.barrier(_group.control, async_op=True), timeout)


def _wait(work: dist.Work, timeout: float | None) -> None:
    assert _group is not None
    pause, waited = SHORTEST_PAUSE, 0.0
    while not work.is_completed():
        if _group.peers.failure is not None:
            raise PeerFailedError("another rank has failed")
        if timeout is not None and waited > timeout:
            raise LateRankError(
                f"another rank has not arrived within {timeout / 60:g} minutes (runtime.timeout_minutes)"
            )
        time.sleep(pause)
        waited += pause
        pause = min(1.1 * pause, LONGEST_PAUSE)
    work.wait()


def all_reduce(tensor: torch.Tensor, op: Literal["sum", "max"] = "sum") -> torch.Tensor:
    """Sum or maximum of `tensor` over the ranks, in place.

    Raises:
        LateRankError: a rank does not arrive within `runtime.timeout_minutes`.
    """
    operation = dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM
    if _group is not None and tensor.device == CPU:
        _wait(
            dist.all_reduce(tensor, operation, _group.control, async_op=True), _group.peers.timeout
        )
    elif _group is not None:
        dist.all_reduce(tensor, operation)
    return tensor


def gather_object(value: T) -> list[T]:
    """The values of all ranks, in their order, on the main process; [value] on the others."""
    values: list[T] = [value] * (ranks().world_size if is_main_process() else 1)
    if _group is not None:
        _wait_for_others()
        dist.gather_object(value, values if is_main_process() else None, group=_group.control)
    return values


def receive_from_others(value: T) -> Iterator[T]:
    """The values of the other ranks, in their order, on the main process, which holds one at a time.

    Nothing on the others, whose values are sent. Every rank must iterate.
    """
    if _group is None:
        return
    _wait_for_others()
    if is_main_process():
        for rank in range(1, ranks().world_size):
            received: list[Any] = [None]
            dist.recv_object_list(received, rank, group=_group.control)
            yield received[0]
    else:
        dist.send_object_list([value], 0, group=_group.control)


def raise_together(error: Exception | None) -> None:
    """Raise the error of the first rank that has one, on all ranks, so that none waits for another."""
    errors = [error] * ranks().world_size
    if _group is not None:
        _wait_for_others()
        dist.all_gather_object(errors, error, group=_group.control)
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
    if _group is None:
        return compute()
    result: list[Any] = [None, None]
    refused: UserError | None = None
    if is_main_process():
        try:
            result[0] = compute()
        except UserError as error:
            refused, result[1] = error, str(error)
    _wait_for_others()
    dist.broadcast_object_list(result, group=_group.control)
    if result[1] is not None:
        raise refused or UserError(result[1])
    return cast(T, result[0])


def broadcast_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The main process's tensors, which are on the CPU, on all ranks; what the others pass is ignored."""
    layout = on_main_process(lambda: {name: (t.shape, t.dtype) for name, t in tensors.items()})
    if is_main_process():
        received = {name: tensor.contiguous() for name, tensor in tensors.items()}
    else:
        received = {
            name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()
        }
    if _group is not None:
        for name in layout:
            dist.broadcast(received[name].reshape(-1).view(torch.uint8), 0, group=_group.control)
    return received


def broadcast_flag(flag: bool) -> bool:
    """What the main process says, on all ranks."""
    return on_main_process(lambda: flag)


def barrier() -> None:
    """Wait for all ranks, however long: rank 0 may wait for another run, or read all data."""
    _wait_for_others()
