"""The loop driver: one for every training."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from edm2.params.section import Training
from edm2.runtime.distributed import all_reduce, barrier, is_main_process, ranks
from edm2.runtime.interruption import Interrupted, signals
from edm2.runtime.progress import Progress
from edm2.runtime.state import State
from edm2.runtime.tracking import Run

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)
Scalar = torch.Tensor | float
Metrics = Mapping[str, Scalar | tuple[Scalar, Scalar]]


class Task(Protocol[BatchIn]):
    """What is trained. `step` makes one update, after which `nimg` images have been seen."""

    def step(self, batch: BatchIn, nimg: int) -> Metrics: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Every:
    """Call `action(nimg)` whenever training time is a multiple of `nimg`; log what it returns."""

    nimg: int
    action: Callable[[int], Mapping[str, float]]


class MetricAccumulator:
    """Means of metrics between two log rows; part of the checkpoint, so that logs resume too.

    A metric is a value, or (sum, count) where it is known for a part of the batch only. All ranks
    report the same names.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, metrics: Metrics) -> None:
        for key, value in metrics.items():
            total, count = value if isinstance(value, tuple) else (value, 1.0)
            total = torch.as_tensor(total, dtype=torch.float64).detach()
            count = torch.as_tensor(count, dtype=torch.float64).to(total.device)
            row = torch.stack([total, count])
            self.sums[key] = self.sums[key].to(row.device) + row if key in self.sums else row

    def take(self) -> dict[str, float]:
        """The means over all ranks; those of nothing are left out. Starts again."""
        totals = {key: all_reduce(self.sums[key]).tolist() for key in sorted(self.sums)}
        self.sums = {}
        return {key: total / count for key, (total, count) in totals.items() if count}

    def state_dict(self) -> dict[str, Any]:
        """The sums over all ranks; every rank must ask."""
        return {key: all_reduce(self.sums[key].clone()) for key in sorted(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = {key: value if is_main_process() else value * 0 for key, value in state.items()}


def train(
    name: str,
    task: Task[Batch],
    batches: Callable[[int], Iterable[Batch]],
    schedule: Training,
    state: State,
    run: Run,
    *,
    checkpoint_seconds: float,
    every: Sequence[Every] = (),
    rollback: Callable[[int], None] = lambda nimg: None,
) -> None:
    """Train `task` to `schedule.duration_nimg` images, from where its state left off.

    Args:
        batches: batches(nimg) gives the batches of time nimg and after, the same ones always.
        every: what else happens at fixed times; it sees the task after the step of that time.
        rollback: called on rank 0 with the time that training (re)starts from, to undo what came
            after it.

    Raises:
        Interrupted: after a signal, when the checkpoint of the current step is written.
    """
    averages = MetricAccumulator()
    nimg = _restore(task, averages, state)
    if is_main_process():
        rollback(nimg)
    run.rollback(nimg)
    barrier()
    progress = Progress(name, schedule.duration_nimg, "img", nimg)
    last_save = time.monotonic()
    with signals() as caught:
        stream = iter(batches(nimg))
        while nimg < schedule.duration_nimg:
            batch = next(stream)
            nimg += schedule.batch
            metrics = task.step(batch, nimg)
            averages.add(metrics)
            if nimg % schedule.log_nimg == 0:
                run.log(nimg, averages.take())
            for due in (event for event in every if nimg % event.nimg == 0):
                run.log(nimg, due.action(nimg))
            progress.advance(schedule.batch)
            stop = _agree(caught[0] if caught else 0)
            late = _agree(int(time.monotonic() - last_save >= checkpoint_seconds))
            if stop or late or nimg >= schedule.duration_nimg:
                _save(task, averages, state, nimg)
                last_save = time.monotonic()
            if stop:
                progress.close()
                barrier()
                raise Interrupted(stop)
    progress.close()


def _save(task: Task[Any], averages: MetricAccumulator, state: State, nimg: int) -> None:
    sums = averages.state_dict()
    if is_main_process():
        state.save(nimg, {"nimg": nimg, "task": task.state_dict(), "averages": sums})


def _restore(task: Task[Any], averages: MetricAccumulator, state: State) -> int:
    barrier()
    tree = state.restore()
    if tree is None:
        return 0
    task.load_state_dict(tree["task"])
    averages.load_state_dict(tree["averages"])
    return int(tree["nimg"])


def _agree(value: int) -> int:
    """The largest value of any rank: a signal or a timer must move all ranks after the same step."""
    if ranks().size == 1:
        return value
    return int(all_reduce(torch.tensor(value), "max"))
