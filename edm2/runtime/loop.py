"""The training loop, which all trainings share."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from edm2.params.section import Training
from edm2.runtime.distributed import all_reduce, barrier, is_main_process
from edm2.runtime.divergence import StepMonitor
from edm2.runtime.interruption import Interrupted, signals
from edm2.runtime.log import NONFINITE_STEPS
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
        # by the names that steps have in common: their sums and counts, float64 [names, 2]
        self.sums: dict[tuple[str, ...], torch.Tensor] = {}
        self.last_means: dict[str, float] = {}

    @torch.no_grad()
    def add(self, metrics: Metrics) -> torch.Tensor:
        """Add the metrics of a step. Returns whether all are finite, bool scalar on their device."""
        names, row = tuple(metrics), _stack(metrics)
        self.sums[names] = row + self.sums[names].to(row.device) if names in self.sums else row
        return row.isfinite().all()

    def latest(self) -> dict[str, float]:
        """The means of this rank since the last log row; right after it, those of the row."""
        return _means(self.sums) or self.last_means

    def compute_and_reset(self) -> dict[str, float]:
        """The means over all ranks, without metrics whose count is 0. Every rank must call this."""
        means = _means({names: all_reduce(row) for names, row in self.sums.items()})
        self.sums, self.last_means = {}, means
        return {name: mean for name, mean in means.items() if mean or name != NONFINITE_STEPS}

    def state_dict(self) -> dict[str, Any]:
        """The sums over all ranks. Every rank must call this."""
        return {"sums": [(names, all_reduce(row.clone())) for names, row in self.sums.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        factor = int(is_main_process())
        self.sums = {tuple(names): row * factor for names, row in state["sums"]}


def _stack(metrics: Metrics) -> torch.Tensor:
    """Sum and count of each metric, float64 [metrics, 2], on the device of its first tensor.

    Numbers get there without a copy from the host, for which a GPU would be waited for.
    """
    pairs = (value if isinstance(value, tuple) else (value, 1.0) for value in metrics.values())
    parts = [part for pair in pairs for part in pair]
    tensors = (part for part in parts if isinstance(part, torch.Tensor))
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    one = torch.ones((), dtype=torch.float64, device=device)

    def on_device(part: Scalar) -> torch.Tensor:
        if isinstance(part, torch.Tensor):
            return part.to(device, torch.float64)
        return one if part == 1 else torch.full_like(one, part)

    return torch.stack([on_device(part) for part in parts]).view(-1, 2)


def _means(sums: Mapping[tuple[str, ...], torch.Tensor]) -> dict[str, float]:
    """Sum divided by count of each metric, sorted by name, without those whose count is 0."""
    totals: dict[str, tuple[float, float]] = {}
    for names, row in sums.items():
        for name, (total, count) in zip(names, row.tolist(), strict=True):
            before = totals.get(name, (0.0, 0.0))
            totals[name] = (before[0] + total, before[1] + count)
    return {name: total / count for name, (total, count) in sorted(totals.items()) if count}


def train(
    name: str,
    task: Task[Batch],
    batches: Callable[[int], Iterable[Batch]],
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
    with signals() as received:
        stream = iter(batches(nimg))
        while nimg < schedule.duration_nimg:
            batch = next(stream)
            nimg += schedule.batch
            metrics = task.step(batch, nimg)
            accumulator.add(monitor.add(accumulator.add(metrics), metrics))
            if nimg % schedule.log_nimg == 0:
                run.log(nimg, accumulator.compute_and_reset())
                monitor.look(nimg)
            for event in every:
                if nimg % event.nimg == 0:
                    run.log(nimg, monitor.act(event.action, nimg))
            progress.advance(schedule.batch)
            signum, checkpoint_due = _max_over_ranks(
                received[0] if received else 0, time.monotonic() - last_save >= checkpoint_seconds
            )
            save = signum or checkpoint_due or nimg >= schedule.duration_nimg
            if save and monitor.look(nimg):
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
