"""The training loop, which all trainings share."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from edm2.params.section import Training
from edm2.runtime.device import fastest_convolutions
from edm2.runtime.distributed import all_reduce, barrier, is_main_process
from edm2.runtime.divergence import StepMonitor
from edm2.runtime.interruption import Interrupted, signals
from edm2.runtime.metrics import MetricAccumulator, Metrics
from edm2.runtime.progress import Progress
from edm2.runtime.sharding import gather
from edm2.runtime.state import State
from edm2.runtime.tracking import Run

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)


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


def train(
    name: str,
    task: Task[Batch],
    batches: Callable[[int], Generator[Batch, None, None]],
    schedule: Training,
    state: State,
    run: Run,
    *,
    checkpoint_seconds: float,
    nonfinite_patience: int | None,
    remedy: str,
    every: Sequence[Every] = (),
    rollback: Callable[[int], None] = lambda nimg: None,
) -> None:
    """Train `task` until `schedule.duration_nimg` images, from its latest checkpoint if it has one.

    Args:
        batches: batches(nimg) iterates over the batches from time nimg on, always the same ones.
        checkpoint_seconds: time between checkpoints.
        nonfinite_patience: see `runtime.nonfinite_patience`.
        remedy: what to do if the training diverges: which params to change, as sentences.
        every: actions at fixed times, after the step of that time.
        rollback: called on rank 0 with the time that training (re)starts from, to remove results of
            later times.

    Raises:
        Interrupted: after a signal, once the checkpoint of the current step is written.
        DivergedError: steps are not finite for longer than the patience, or at the end; or the state
            is not finite where a checkpoint is due. The checkpoints are from before that.
    """
    accumulator = MetricAccumulator()
    monitor = StepMonitor(schedule, nonfinite_patience, remedy, state, run, accumulator.latest)
    nimg = _restore(task, accumulator, state)
    if is_main_process():
        rollback(nimg)
    run.rollback(nimg)
    barrier()
    progress = Progress(name, schedule.duration_nimg, "img", nimg)
    last_save = time.monotonic()
    with signals() as received, closing(batches(nimg)) as stream:
        while nimg < schedule.duration_nimg:
            batch = next(stream)
            nimg += schedule.batch
            with fastest_convolutions():
                metrics = task.step(batch, nimg)
            finite = accumulator.add(metrics)
            accumulator.add(monitor.add(finite, metrics))
            if nimg % schedule.log_nimg == 0:
                run.log(nimg, accumulator.compute_and_reset())
                monitor.check_steps(nimg)
            for event in every:
                if nimg % event.nimg == 0:
                    run.log(nimg, monitor.act(event.action, nimg))
            progress.advance(schedule.batch)
            signum, checkpoint_due = _max_over_ranks(
                received[0] if received else 0, time.monotonic() - last_save >= checkpoint_seconds
            )
            save = signum or checkpoint_due or nimg >= schedule.duration_nimg
            if save and monitor.check_steps(nimg):
                _save(task, accumulator, monitor, state, nimg)
                last_save = time.monotonic()
            if signum:
                progress.close()
                barrier()
                raise Interrupted(signum)
    progress.close()


def _save(
    task: Task[Any], accumulator: MetricAccumulator, monitor: StepMonitor, state: State, nimg: int
) -> None:
    sums, tree = accumulator.state_dict(), task.state_dict()
    monitor.check_state(tree, nimg)
    tree = gather(tree)
    if is_main_process():
        state.save(nimg, {"nimg": nimg, "task": tree, "averages": sums})


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
