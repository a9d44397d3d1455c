"""The run of the pipeline in MLflow, whose children are the runs of its stages.

Stages are processes of their own, started by DVC or by hand, one after the other or side by side. They share
an outbox in `.state/pipeline/<key>-<number>`, with a key that all stages of one run compute. A number
is used until the last stage of the pipeline has finished: so an interrupted pipeline run goes on in the same
outbox, and one that is run again begins a new one. Locks decide both, so there are never two for one.

Its status is RUNNING while a stage runs, SCHEDULED between stages, FINISHED when the last one is done, and
FAILED or KILLED when a stage ended so and none has started since.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.locks import exclusive, shared

FOLDER = "pipeline"  # in the state
RUNNING, SCHEDULED, FINISHED = "RUNNING", "SCHEDULED", "FINISHED"


@dataclass(frozen=True)
class PipelineRun:
    """What a stage knows of the pipeline run that it belongs to.

    Attributes:
        key: the same for all stages of one pipeline run.
        is_last: whether the pipeline run is finished with this stage.
        describe: name, tags and params in MLflow; asked once for a pipeline run.
    """

    key: str
    is_last: bool
    describe: Callable[[], tuple[str, Mapping[str, str], Mapping[str, str]]]


class PipelineOutbox:
    """The outbox of a pipeline run, to which the stages of the run append in turn."""

    def __init__(self, outbox: Outbox, guard: Path) -> None:
        self.outbox, self.guard = outbox, guard

    @property
    def name(self) -> str:
        """Its folder in that of all states."""
        return f"{FOLDER}/{self.outbox.folder.name}"

    def add(self, **entry: Any) -> None:
        with exclusive(self.guard):
            self.outbox.add(**entry)

    def add_datasets(self, datasets: Sequence[Mapping[str, str]]) -> None:
        with exclusive(self.guard):
            self.outbox.add_datasets(datasets)


@contextmanager
def joined(
    state: Path, run: PipelineRun | None, tracking: Mapping[str, Any]
) -> Iterator[PipelineOutbox | None]:
    """The outbox of a pipeline run, if there is one, which counts as running within the block.

    Args:
        state: the folder of all states.
        tracking: the store and the experiment, as in the description of an outbox.
    """
    if run is None:
        yield None
        return
    guard = state / FOLDER / f"{run.key}.lock"
    status = "FAILED"
    with ExitStack() as held:
        with exclusive(guard):
            outbox = _current(state / FOLDER, run.key)
            for ending in ("lock", "use.lock"):  # of `Outbox.is_running`, of `edm2 clean`
                held.enter_context(
                    shared(outbox.folder.with_name(f"{outbox.folder.name}.{ending}"))
                )
            _open(outbox, run, tracking)
        try:
            yield PipelineOutbox(outbox, guard)
            status = FINISHED
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            raise
        finally:
            with exclusive(guard):
                held.close()
                _leave(outbox, status, run.is_last)


def _current(folder: Path, key: str) -> Outbox:
    """The latest outbox of the key, if its pipeline run goes on; else the next one."""
    numbers = [
        int(path.name.rpartition("-")[2]) for path in folder.glob(f"{key}-*") if path.is_dir()
    ]
    latest = max(numbers, default=1)
    outbox = Outbox(folder / f"{key}-{latest}")
    if outbox.size and _last_status(outbox) == FINISHED:
        outbox = Outbox(folder / f"{key}-{latest + 1}")
    outbox.folder.mkdir(parents=True, exist_ok=True)
    return outbox


def _open(outbox: Outbox, run: PipelineRun, tracking: Mapping[str, Any]) -> None:
    if outbox.size:
        outbox.open(outbox.description)
        outbox.add_status(RUNNING)
    else:
        name, tags, params = run.describe()
        outbox.open({"name": name, "tags": dict(tags), "tracking": dict(tracking)})
        outbox.add_status(RUNNING)
        outbox.add(params=dict(params))


def _leave(outbox: Outbox, status: str, is_last: bool) -> None:
    """Add the status after a stage: that of a failure stays until the next stage starts."""
    if status != FINISHED or is_last:
        outbox.add_status(status)
    elif not outbox.is_running and _last_status(outbox) == RUNNING:
        outbox.add_status(SCHEDULED)


def _last_status(outbox: Outbox) -> str:
    return [entry["status"] for entry, _ in outbox.entries() if "status" in entry][-1]
