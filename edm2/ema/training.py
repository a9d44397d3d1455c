"""The averages of a training: updated after each step, in its checkpoints, written as snapshots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from edm2.ema.snapshot import write_snapshot
from edm2.ema.tracker import Tracker
from edm2.runtime.distributed import is_main_process
from edm2.runtime.loop import Every, Task
from edm2.runtime.metrics import Metrics
from edm2.runtime.sharding import gather

Batch = TypeVar("Batch")


class AveragedTask(Generic[Batch]):
    """A training after each step of which the averages of its weights are updated."""

    def __init__(self, task: Task[Batch], average: Tracker, batch: int) -> None:
        """
        Args:
            task: whose state has no entry "average".
            batch: images of a step, over all ranks.
        """
        self.task, self.average, self.batch = task, average, batch

    def step(self, batch: Batch, nimg: int) -> Metrics:
        metrics = self.task.step(batch, nimg)
        self.average.update(nimg, self.batch)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {**self.task.state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task.load_state_dict(state)
        self.average.load_state_dict(state["average"])


def snapshots_every(nimg: int, average: Tracker, folder: Path) -> Every:
    """Write the averages to the store `folder` at the multiples of `nimg`.

    Whoever uses it removes the snapshots after the time at which the training continues
    (`remove_snapshots_after`).
    """

    def write(time: int) -> Mapping[str, float]:
        for snapshot, tensors in average.snapshots(time).items():
            gathered = gather(tensors)
            if is_main_process():
                write_snapshot(folder, snapshot, gathered, list(average.buffers))
        return {}

    return Every(nimg, write)
