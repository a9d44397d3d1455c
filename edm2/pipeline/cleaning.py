"""What may be removed: work in `.state` that DVC's cache has, abandoned work, and incomplete files anywhere.

The state of a stage is kept if a process has it open, if its results are nowhere else, or if the current
params continue it.
"""

import itertools
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edm2.data.tars import INDICES
from edm2.params import Params, UserError
from edm2.params.launch import STAGES
from edm2.pipeline.declaration import all_outs, read_declaration
from edm2.pipeline.dvc_cache import DvcCache
from edm2.runtime.checked_json import read_checked
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.delivery.pipeline_run import FOLDER as PIPELINE_RUNS
from edm2.runtime.locks import exclusive
from edm2.runtime.state import State
from edm2.runtime.temporaries import PATTERN, is_abandoned, last_change, remove

STATE = Path(".state")
MLFLOW = Path(".mlflow")
SECONDS_PER_DAY = 86400


@dataclass(frozen=True)
class Entry:
    """The state of one run of a stage, or the index of one tar, in the current folder.

    Attributes:
        reason: why it is removed or kept.
        freed: bytes that its removal frees.
        shared: bytes of its files that other files, such as those in DVC's cache, are links to.
    """

    path: Path
    removable: bool
    reason: str
    freed: int = 0
    shared: int = 0


def clean(params: Params, cache: DvcCache, days: float, apply: bool) -> Iterator[Entry]:
    """Judge everything in `.state` of the current folder, the latest first, and incomplete files beside
    results; remove what may be if `apply`.

    Args:
        days: how long abandoned work is kept after its last change.
    """
    judge = _Judge(params, cache, time.time() - days * SECONDS_PER_DAY)
    folders = (path for path in STATE.glob("*/*") if path.is_dir() and path.parent != INDICES)
    for folder in sorted(folders, key=last_change, reverse=True):
        with exclusive(State(folder).use, wait=False) as free:
            entry = judge.state(folder) if free else Entry(folder, False, "a process has it open")
            yield _removed(_measured(entry), apply, folder)
    for description in sorted(INDICES.glob("*.json")):
        files = description.parent.glob(f"{description.stem}.*")
        yield _removed(_measured(_index(description)), apply, *files)
    for path in sorted(temporaries()):
        yield _removed(_measured(_judged(path)), apply, path)


def _index(description: Path) -> Entry:
    """What to do with the index of a tar, which is described beside it."""
    path = description.with_suffix(".npy")
    try:
        tar = Path(read_checked(description, "", "Remove it.")["tar"])
    except UserError as error:
        return Entry(path, False, str(error))
    reason = f"index of {tar}" + (", which does not exist" if not tar.exists() else "")
    return Entry(path, not tar.exists(), reason)


class _Judge:
    """Decides which states may be removed; is asked about the latest ones first."""

    def __init__(self, params: Params, cache: DvcCache, oldest: float) -> None:
        self.params, self.cache, self.oldest = params, cache, oldest
        self.continued: set[str] = set()  # stages, of the current params

    def state(self, folder: Path) -> Entry:
        state = State(folder)
        try:
            notes = state.read_notes()
        except UserError as error:
            return Entry(folder, False, str(error))
        if Outbox(folder).is_pending:
            return Entry(folder, False, "not delivered to MLflow: run `edm2 track sync`")
        if folder.parent.name == PIPELINE_RUNS:
            days = (time.time() - last_change(folder)) / SECONDS_PER_DAY
            reason = f"names of a run in MLflow, delivered; last changed {days:.0f} days ago"
            return Entry(folder, last_change(folder) < self.oldest, reason)
        if "result_bytes" in notes:
            return self._finished(state, notes["result_bytes"])
        if "params" not in notes and any(_files(folder)):
            return Entry(folder, False, "unfinished; it is not known with which params")
        return self._unfinished(folder, notes.get("params"))

    def _finished(self, state: State, results: dict[str, int]) -> Entry:
        for path in (state.results / name for name in results):
            if not (path.exists() and self.cache.has(path)):
                return Entry(
                    state.folder, False, f"finished; DVC's cache lacks {path.name}: run `dvc repro`"
                )
        return Entry(state.folder, True, "finished; DVC's cache has its results")

    def _unfinished(self, folder: Path, params: Any) -> Entry:
        name = folder.parent.name
        if name not in self.continued and params == self._current(name):
            self.continued.add(name)  # older ones are of other inputs or code
            return Entry(folder, False, "unfinished; the current params continue it")
        days = (time.time() - last_change(folder)) / SECONDS_PER_DAY
        reason = f"unfinished, of other params, inputs or code; last changed {days:.0f} days ago"
        return Entry(folder, last_change(folder) < self.oldest, reason)

    def _current(self, name: str) -> Any:
        """The params that a stage depends on; None if there is no such stage or training any more.

        Args:
            name: of its folder in the state, like train_diffusion-G-0.
        """
        stage, _, training = name.partition("-")
        replicates = {str(replicate): replicate for replicate in self.params.replicates}
        if stage not in STAGES or (training and training not in replicates):
            return None
        params = self.params.of(replicates[training].config) if training else self.params
        return json.loads(json.dumps(read_declaration(stage, training).values(params)))


def temporaries() -> set[Path]:
    """Incomplete files and folders outside of states: beside results, and in MLflow's store."""
    declared = (Path(out) for out in all_outs())
    folders = {Path(out.parts[0]) for out in declared} | {INDICES, MLFLOW}
    found = {path for folder in folders for path in folder.rglob(PATTERN)}
    return {path for path in found if found.isdisjoint(path.parents)}


def _judged(path: Path) -> Entry:
    """What to do with an incomplete file or folder: earlier versions named no owner, only a process."""
    abandoned = is_abandoned(path) or time.time() - last_change(path) > SECONDS_PER_DAY
    return Entry(path, abandoned, f"incomplete; {'left' if abandoned else 'may be being written'}")


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and everything in it; what a running stage removes meanwhile is left out."""
    inside = (Path(folder, n) for folder, *names in os.walk(path) for n in itertools.chain(*names))
    for each in (path, *inside):
        with suppress(FileNotFoundError):
            yield each.stat()


def _files(path: Path) -> Iterator[os.stat_result]:
    return (status for status in _stats(path) if stat.S_ISREG(status.st_mode))


def _measured(entry: Entry) -> Entry:
    """The entry with its sizes: a file takes space as long as any link to it exists."""
    stats = list(_files(entry.path))
    links = Counter((s.st_dev, s.st_ino) for s in stats)
    sizes = {(s.st_dev, s.st_ino): (s.st_size, s.st_nlink) for s in stats}
    freed = sum(size for key, (size, total) in sizes.items() if links[key] == total)
    return replace(entry, freed=freed, shared=sum(size for size, _ in sizes.values()) - freed)


def _removed(entry: Entry, apply: bool, *paths: Path) -> Entry:
    if apply and entry.removable:
        for path in paths:
            remove(path)
    return entry
