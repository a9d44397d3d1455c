"""Publication of a stage's results as outs of the pipeline, and fingerprints of runs."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.distributed import barrier, broadcast_flag, is_main_process, on_main_process
from edm2.runtime.files import link, sha256
from edm2.runtime.manifest import MANIFEST
from edm2.runtime.state import State
from edm2.runtime.verification import damaged_files


def is_complete(state: State) -> bool:
    """Whether all results of this run exist and are intact, even if the outs are missing.

    All are read, shared by the ranks, and compared with their checksums, because outs are links to
    these files and may have been removed as damaged. If a file is missing or damaged, all results
    are removed, and the run starts from the beginning. The main process decides.
    """
    notes = on_main_process(state.read_notes)
    if "result_bytes" not in notes:
        return False
    problem = on_main_process(lambda: _problem(state, notes))
    if problem is None:
        manifests = on_main_process(lambda: sorted(state.results.rglob(MANIFEST)))
        problem = next(iter(damaged_files((path.parent for path in manifests), strict=True)), None)
    complete = not broadcast_flag(problem is not None)
    if not complete and is_main_process():
        print(f"{problem} The stage is run again.", file=sys.stderr)
        shutil.rmtree(state.folder)
        state.results.mkdir(parents=True)
    barrier()
    return complete


def _problem(state: State, notes: Mapping[str, Any]) -> str | None:
    """The first result that is missing, truncated, or listed in no manifest and damaged."""
    for name, size in notes["result_bytes"].items():
        if _size(state.results / name) != size:
            return f"{state.results / name}: missing or truncated."
    for name, checksum in notes.get("result_sha256", {}).items():
        if sha256(state.results / name) != checksum:
            return (
                f"{state.results / name}: SHA-256 differs from that when it was written: corrupted."
            )
    return None


def publish(state: State, outs: Iterable[Path]) -> None:
    """Link results/<out> to each out. The results stay in the state until it is removed.

    Results that no manifest lists, tables and pictures, are hashed; all of them are small.
    """
    if is_main_process():
        files = [path for path in sorted(state.results.rglob("*")) if path.is_file()]
        names = {path: path.relative_to(state.results).as_posix() for path in files}
        listed = {path.parent for path in files if path.name == MANIFEST}
        state.note(
            result_bytes={names[path]: _size(path) for path in files},
            result_sha256={
                names[path]: sha256(path) for path in files if not listed & set(path.parents)
            },
        )
        for out in outs:
            if not (state.results / out).exists():
                raise RuntimeError(f"{out}: declared in dvc.yaml, but the stage has not written it")
            link(state.results / out, out, state.folder)
        state.remove_checkpoints()
    barrier()


def fingerprint(params: Mapping[str, Any], inputs: Iterable[Path]) -> str:
    """Hash of everything that determines a stage's results.

    Args:
        params: values by key path.
        inputs: files; folders of results, represented by their manifest; folders of code.

    Raises:
        UserError: an input does not exist.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path}: does not exist. Run `dvc repro`, or the stage that makes it.")
        for file in _files(path):
            digest.update(f"{file.as_posix()}\0{sha256(file)}\0".encode())
    return digest.hexdigest()[:16]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / MANIFEST).exists():
        return [path / MANIFEST]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")
