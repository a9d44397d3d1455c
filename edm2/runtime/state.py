"""Scratch state of running stages, from which interrupted ones resume.

It is in `.state/<stage>/<fingerprint>/` below the project's root, outside the pipeline's outs, which
DVC removes before a stage runs. The fingerprint covers the stage's params, inputs and code: the same
run finds its state again, any other run starts with an empty one.
"""

import fcntl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edm2.params.checks import project_root
from edm2.runtime.checked_json import read_checked, write_checked
from edm2.runtime.distributed import barrier, is_main_process, on_main_process
from edm2.runtime.locks import shared
from edm2.runtime.temporaries import remove, remove_left_in, shared_name

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from edm2.runtime.checkpoint import Staged

NOTES_REMEDY = (
    "Remove it, or run `edm2 doctor --fix`, and run this again: checkpoints and complete shards beside it "
    "are kept."
)


@dataclass(frozen=True)
class State:
    """The state folder of one run of a stage; one launch at a time has it open.

    Work items alone, in `items`, are also written by launches that do not have it open.
    """

    folder: Path

    @property
    def results(self) -> Path:
        """The folder where the stage writes its results before they are published."""
        return self.folder / "results"

    @property
    def items(self) -> Path:
        """The folder of work items, if the stage has any; see `edm2.runtime.work_items`."""
        return self.folder / "items"

    @property
    def use(self) -> Path:
        """The lock that launches share which use this state; `edm2 clean` takes it before it removes one."""
        return self.folder.with_name(f"{self.folder.name}.use.lock")

    @property
    def lock(self) -> Path:
        """The lock of the launch that has this state open."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def save(self, nimg: int, staged: "Staged", group: "ProcessGroup | None" = None) -> None:
        """Write the checkpoint of time `nimg`; then remove all but this and the previous one.

        Every rank must call this; `group` as in `write_staged`.
        """
        from edm2.runtime.checkpoint import write_staged

        write_staged(self.folder / f"checkpoint-{nimg:012d}", staged, group)
        if is_main_process():
            self.remove_checkpoints(keep=2)

    def restore(self, into: Any = None, group: "ProcessGroup | None" = None) -> Any | None:
        """The tree of the latest checkpoint, see `load_tree`; None if there are no checkpoints.

        The main process says which one it is. Every rank must call this.
        """
        from edm2.runtime.checkpoint import load_tree

        checkpoints = on_main_process(self.checkpoints)
        return load_tree(checkpoints[-1], into, group) if checkpoints else None

    def checkpoints(self) -> list[Path]:
        """The folders of all complete checkpoints, the latest last, as this process sees them."""
        return sorted(self.folder.glob("checkpoint-*"))

    def remove_checkpoints(self, keep: int = 0) -> None:
        """Remove all checkpoints but the latest `keep`: an incomplete one never has its name."""
        checkpoints = self.checkpoints()
        for folder in checkpoints[: len(checkpoints) - keep]:
            remove(folder.rename(shared_name(folder)))

    @property
    def notes(self) -> Path:
        """File of small values that outlive checkpoints, such as the MLflow run id."""
        return self.folder / "notes.json"

    def note(self, **values: Any) -> None:
        """Add values to the notes."""
        write_checked(self.notes, {**self.read_notes(), **values}, self.folder.name)

    def read_notes(self) -> dict[str, Any]:
        """
        Raises:
            UserError: they are damaged, or of another run.
        """
        if not self.notes.exists():
            return {}
        missing = "Restore it. Then run the same command again."
        return read_checked(self.notes, missing, NOTES_REMEDY, self.folder.name)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the seconds that the block takes to the note `seconds`: those of all launches together.

        It is null within the block, and so from then on if a launch is killed.
        """
        if not is_main_process():
            yield
            return
        before, start = self.read_notes().get("seconds", 0.0), time.perf_counter()
        self.note(seconds=None)
        try:
            yield
        finally:
            if before is not None:
                self.note(seconds=before + time.perf_counter() - start)


@contextmanager
def used_state(stage: str, fingerprint: str) -> Iterator[State]:
    """The state of a run, which is not removed within the block; other launches may use it as well."""
    state = State(project_root() / ".state" / stage / fingerprint)
    with shared(state.use) if is_main_process() else nullcontext():
        state.folder.mkdir(parents=True, exist_ok=True)
        yield state


@contextmanager
def open_state(
    stage: str, fingerprint: str, share: Callable[[State], None] | None = None
) -> Iterator[State]:
    """The state of a run, under a lock: a second launch of the same run waits for the first.

    Args:
        share: what a second launch does before it waits, on all ranks.
    """
    with used_state(stage, fingerprint) as state, locked(state, stage, share):
        yield state


@contextmanager
def locked(
    state: State, stage: str, share: Callable[[State], None] | None = None
) -> Iterator[None]:
    """Hold the state, whose folder exists, as `open_state` does."""
    with state.lock.open("w") as lock:
        if share is not None and not on_main_process(lambda: _is_free(lock.fileno())):
            share(state)
        if is_main_process():
            _wait_for(lock.fileno(), stage)
            state.results.mkdir(exist_ok=True)
            remove_left_in(state.folder, state.items)
        barrier()
        yield


def _is_free(lock: int) -> bool:
    """Whether no other launch holds the lock; this one holds it then."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(lock: int, stage: str) -> None:
    if not _is_free(lock):
        print(f"{stage}: another process is running this stage; waiting for it.", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
