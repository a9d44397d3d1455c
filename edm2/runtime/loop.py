"""The training loop, which all trainings share."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from edm2.params.section import Training
from edm2.runtime.checkpointing import Checkpointer, checkpointing
from edm2.runtime.device import fastest_convolutions
from edm2.runtime.distributed import all_reduce, barrier, is_main_process
from edm2.runtime.divergence import StepMonitor
from edm2.runtime.interruption import Interrupted, signals
from edm2.runtime.metrics import MetricAccumulator, Metrics, shown
from edm2.runtime.progress import Progress
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
        checkpoint_seconds: see `Checkpointer`.
        nonfinite_patience: see `runtime.nonfinite_patience`.
        remedy: what to do if the training diverges: which params to change, as sentences.
        every: actions at fixed times, after the step of that time.
        rollback: called on rank 0 with the time that training (re)starts from, to remove results of
            later times.

    Raises:
        Interrupted: after a signal, once the checkpoint of the current step is written.
        DivergedError: steps, or the state, are not finite; the checkpoints are from before that.
        OSError, SafetensorError: a checkpoint cannot be written.
    """
    with checkpointing(state, checkpoint_seconds) as checkpointer:
        loop = _Loop(task, schedule, run, every, checkpointer, nonfinite_patience, remedy)
        nimg = loop.restore(rollback)
        progress = Progress(name, schedule.duration_nimg, "img", nimg)
        with signals() as received, closing(batches(nimg)) as stream:
            while nimg < schedule.duration_nimg:
                nimg += schedule.batch
                loop.step(next(stream), nimg)
                progress.note = shown({**loop.means.last_means, **loop.measured})
                progress.advance(schedule.batch)
                signum = loop.save_if_due(nimg, received[0] if received else 0)
                if signum:
                    progress.close()
                    barrier()
                    raise Interrupted(signum)
        progress.close()


class _Loop(Generic[Batch]):
    """What `train` does before, in and after each step. Every rank must call all of it."""

    def __init__(
        self,
        task: Task[Batch],
        schedule: Training,
        run: Run,
        every: Sequence[Every],
        checkpointer: Checkpointer,
        patience: int | None,
        remedy: str,
    ) -> None:
        """The arguments are those of `train`."""
        self.task, self.schedule, self.run, self.every = task, schedule, run, every
        self.checkpointer, self.means = checkpointer, MetricAccumulator()
        self.measured: dict[str, float] = {}  # the last metrics of actions
        self.monitor = StepMonitor(
            schedule, patience, remedy, checkpointer.checkpoints, run, self.means.latest
        )

    def restore(self, rollback: Callable[[int], None]) -> int:
        """The time at which training starts or continues; later results are removed."""
        barrier()
        nimg, last, into = 0, None, {"task": self.task.state_dict()}
        tree = self.checkpointer.restore(into)
        if tree is not None:
            self.task.load_state_dict(tree["task"])
            self.means.load_state_dict(tree["averages"])
            nimg, last = int(tree["nimg"]), tree.get("log")  # which earlier versions do not have
        if is_main_process():
            rollback(nimg)
        self.run.rollback(nimg, last)
        barrier()
        return nimg

    def step(self, batch: Batch, nimg: int) -> None:
        """Make a step; log and act if it is time."""
        with fastest_convolutions():
            metrics = self.task.step(batch, nimg)
        finite = self.means.add(metrics)
        self.means.add(self.monitor.add(finite, metrics))
        if nimg % self.schedule.log_nimg == 0:
            self.run.log(nimg, self.means.compute_and_reset())
            self.monitor.check_steps(nimg)
        for event in self.every:
            if nimg % event.nimg == 0:
                measured = self.monitor.act(event.action, nimg)
                self.run.log(nimg, measured)
                self.measured.update(measured)

    def save_if_due(self, nimg: int, signum: int) -> int:
        """Save when the main process says so, at the end of the training, and after a signal; in the
        last two cases, wait for it.

        Args:
            signum: number of the signal that this rank has received; 0: none.

        Returns:
            That of any rank.
        """
        signum, due = _max_over_ranks(signum, self.checkpointer.due())
        last = signum or nimg >= self.schedule.duration_nimg
        if due or last:
            self.checkpointer.wait()
            if self.monitor.check_steps(nimg):
                self._save(nimg)
        if last:
            self.checkpointer.wait()
        return signum

    def _save(self, nimg: int) -> None:
        averages, tree = self.means.state_dict(), self.task.state_dict()
        self.monitor.check_state(tree, nimg)
        log = self.run.save_log()
        self.checkpointer.save(nimg, {"nimg": nimg, "task": tree, "averages": averages, "log": log})


def _max_over_ranks(*values: int) -> list[int]:
    """Each value's maximum: a signal of one rank, or a decision of the main process, counts for all."""
    return all_reduce(torch.tensor(values), "max").tolist()
