"""Scratch state of running stages, and how finished results leave it.

`.state/<stage>/<fingerprint>/` below the project root holds all that resuming needs. It stands
outside the pipeline's outputs, which are removed before a stage runs. The fingerprint covers the
stage's params, inputs and code: the same work finds its state again, other work starts anew.
"""

import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.params.checks import project_root
from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.runtime.distributed import barrier, ranks
from edm2.runtime.files import link, remove_partial, sha256, write_json
from edm2.runtime.manifest import NAME


@dataclass(frozen=True)
class State:
    """The state folder of one piece of work, held by one launch at a time."""

    folder: Path

    @property
    def results(self) -> Path:
        """What the stage makes, gathered here before it is published."""
        return self.folder / "results"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def save(self, nimg: int, tree: Any) -> None:
        """Write the checkpoint of time `nimg`; keep the one before it, drop older ones."""
        save_tree(self.folder / f"checkpoint-{nimg:012d}.safetensors", tree)
        for old in self._checkpoints()[:-2]:
            old.unlink()

    def restore(self) -> Any | None:
        """The latest checkpoint's tree, or None when there is none."""
        found = self._checkpoints()
        return load_tree(found[-1]) if found else None

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.safetensors"))

    @property
    def notes(self) -> Path:
        """Small facts that outlive checkpoints, such as the MLflow run id."""
        return self.folder / "notes.json"

    def note(self, **facts: Any) -> None:
        write_json(self.notes, {**self.read_notes(), **facts})

    def read_notes(self) -> dict[str, Any]:
        return json.loads(self.notes.read_text()) if self.notes.exists() else {}

    def finished(self) -> bool:
        """Whether all results are there and unharmed, though they may not have reached the pipeline.

        Harmed ones are forgotten, for the work to be done anew.
        """
        noted = self.read_notes().get("results")
        if noted is None:
            return False
        harmed = [name for name, digest in noted.items() if not _holds(self.results / name, digest)]
        barrier()
        if harmed and ranks().first:
            print(
                f"{self.results / harmed[0]}: missing or corrupt; the work is done anew.",
                file=sys.stderr,
            )
            shutil.rmtree(self.folder)
            self.results.mkdir(parents=True)
        barrier()
        return not harmed

    def publish(self, outs: Iterable[Path]) -> None:
        """Link results/<out> to each out. Results stay here until `.state` is cleaned."""
        if ranks().first:
            files = (path for path in sorted(self.results.rglob("*")) if path.is_file())
            self.note(results={f.relative_to(self.results).as_posix(): sha256(f) for f in files})
            for out in outs:
                link(self.results / out, out)
            for checkpoint in self._checkpoints():
                checkpoint.unlink()
        barrier()


@contextmanager
def open_state(stage: str, fingerprint: str) -> Iterator[State]:
    """The state of this work, under a lock that a second launch waits for."""
    folder = project_root() / ".state" / stage / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{fingerprint}.lock").open("w") as lock:
        state = State(folder)
        if ranks().first:
            _wait_for(lock.fileno(), stage)
            state.results.mkdir(exist_ok=True)
            remove_partial(folder)
        barrier()
        yield state


def _wait_for(lock: int, stage: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{stage}: another process is at this very work; waiting for it.", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


def fingerprint(params: Mapping[str, Any], inputs: Iterable[Path]) -> str:
    """Hash of what determines a stage's results.

    Args:
        params: values by key path.
        inputs: files; folders of results, which their manifest stands for; folders of code.

    Raises:
        UserError: an input is not there.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path}: not there. Run the stage that makes it (`dvc repro` does).")
        for file in _files(path):
            digest.update(f"{file.as_posix()}\0{sha256(file)}\0".encode())
    return digest.hexdigest()[:16]


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / NAME).exists():
        return [path / NAME]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")
