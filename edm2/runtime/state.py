"""Scratch state of running stages, from which interrupted ones resume.

It is in `.state/<stage>/<fingerprint>/` below the project's root, outside the pipeline's outs, which
DVC removes before a stage runs. The fingerprint covers the stage's params, inputs and code: the same
run finds its state again, any other run starts with an empty one.
"""

import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.params.checks import project_root
from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.runtime.distributed import barrier, is_main_process
from edm2.runtime.files import remove_partial, write_json


@dataclass(frozen=True)
class State:
    """The state folder of one run of a stage; one launch at a time has it open."""

    folder: Path

    @property
    def results(self) -> Path:
        """The folder where the stage writes its results before they are published."""
        return self.folder / "results"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def save(self, nimg: int, tree: Any) -> None:
        """Write the checkpoint of time `nimg`; keep the previous one, remove older ones."""
        save_tree(self.folder / f"checkpoint-{nimg:012d}.safetensors", tree)
        for path in self.checkpoints()[:-2]:
            path.unlink()

    def restore(self) -> Any | None:
        """The tree of the latest checkpoint; None if there are no checkpoints."""
        checkpoints = self.checkpoints()
        return load_tree(checkpoints[-1]) if checkpoints else None

    def checkpoints(self) -> list[Path]:
        """The files of all checkpoints, the latest last."""
        return sorted(self.folder.glob("checkpoint-*.safetensors"))

    @property
    def notes(self) -> Path:
        """File of small values that outlive checkpoints, such as the MLflow run id."""
        return self.folder / "notes.json"

    def note(self, **values: Any) -> None:
        """Add values to the notes."""
        write_json(self.notes, {**self.read_notes(), **values})

    def read_notes(self) -> dict[str, Any]:
        if not self.notes.exists():
            return {}
        try:
            notes: dict[str, Any] = json.loads(self.notes.read_text())
        except ValueError as error:
            raise UserError(
                f"{self.notes}: not valid JSON ({error}). Remove it, and run this again: checkpoints and "
                "complete shards beside it are kept."
            ) from None
        return notes


@contextmanager
def open_state(stage: str, fingerprint: str) -> Iterator[State]:
    """The state of a run, under a lock: a second launch of the same run waits for the first."""
    folder = project_root() / ".state" / stage / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{fingerprint}.lock").open("w") as lock:
        state = State(folder)
        if is_main_process():
            _wait_for(lock.fileno(), stage)
            state.results.mkdir(parents=True, exist_ok=True)  # `edm2 clean` may have removed it
            remove_partial(folder)
        barrier()
        yield state


def _wait_for(lock: int, stage: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{stage}: another process is running this stage; waiting for it.", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
