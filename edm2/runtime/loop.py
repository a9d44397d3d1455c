"""The training loop, which all trainings share."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from edm2.params.section import Training
from edm2.runtime.distributed import all_reduce, barrier, is_main_process
from edm2.runtime.interruption import Interrupted, signals
from edm2.runtime.progress import Progress
from edm2.runtime.state import State
from edm2.runtime.tracking import Run

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)
Scalar = torch.Tensor | float
Metrics = Mapping[str, Scalar | tuple[Scalar, Scalar]]


class Task(Protocol[BatchIn]):
    """A training. `step` makes one update, after which `nimg` images have been seen in total."""

    def step(self, batch: BatchIn, nimg: int) -> Metrics: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Every:
    """Call `action(nimg)` whenever training time is a multiple of `nimg`; log the metrics it returns."""

    nimg: int
    action: Callable[[int], Mapping[str, float]]


class MetricAccumulator:
    """Means of metrics between two log rows; part of the checkpoint, so that logs resume too.

    A metric is a value, or (sum, count) if only a part of the batch has it. All ranks have the same
    metrics.
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

    def compute_and_reset(self) -> dict[str, float]:
        """The means over all ranks, without metrics whose count is 0. Every rank must call this."""
        totals = {key: all_reduce(self.sums[key]).tolist() for key in sorted(self.sums)}
        self.sums = {}
        return {key: total / count for key, (total, count) in totals.items() if count}

    def state_dict(self) -> dict[str, Any]:
        """The sums over all ranks. Every rank must call this."""
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
    """Train `task` until `schedule.duration_nimg` images, from its latest checkpoint if it has one.

    Args:
        batches: batches(nimg) iterates over the batches from time nimg on, always the same ones.
        checkpoint_seconds: time between checkpoints.
        every: actions at fixed times, after the step of that time.
        rollback: called on rank 0 with the time that training (re)starts from, to remove results of
            later times.

    Raises:
        Interrupted: after a signal, once the checkpoint of the current step is written.
    """
    accumulator = MetricAccumulator()
    nimg = _restore(task, accumulator, state)
    if is_main_process():
        rollback(nimg)
    run.rollback(nimg)
    barrier()
    progress = Progress(name, schedule.duration_nimg, "img", nimg)
    last_save = time.monotonic()
    with signals() as received:
        stream = iter(batches(nimg))
        while nimg < schedule.duration_nimg:
            batch = next(stream)
            nimg += schedule.batch
            metrics = task.step(batch, nimg)
            accumulator.add(metrics)
            if nimg % schedule.log_nimg == 0:
                run.log(nimg, accumulator.compute_and_reset())
            for event in every:
                if nimg % event.nimg == 0:
                    run.log(nimg, event.action(nimg))
            progress.advance(schedule.batch)
            signum, checkpoint_due = _max_over_ranks(
                received[0] if received else 0, time.monotonic() - last_save >= checkpoint_seconds
            )
            if signum or checkpoint_due or nimg >= schedule.duration_nimg:
                _save(task, accumulator, state, nimg)
                last_save = time.monotonic()
            if signum:
                progress.close()
                barrier()
                raise Interrupted(signum)
    progress.close()


def _save(task: Task[Any], accumulator: MetricAccumulator, state: State, nimg: int) -> None:
    sums = accumulator.state_dict()
    if is_main_process():
        state.save(nimg, {"nimg": nimg, "task": task.state_dict(), "averages": sums})


def _restore(task: Task[Any], accumulator: MetricAccumulator, state: State) -> int:
    barrier()
    tree = state.restore()
    if tree is None:
        return 0
    task.load_state_dict(tree["task"])
    accumulator.load_state_dict(tree["averages"])
    return int(tree["nimg"])


def _max_over_ranks(*values: int) -> list[int]:
    """Each value's maximum: a signal or timer of one rank must act on all ranks after the same step."""
    return all_reduce(torch.tensor(values), "max").tolist()
