"""Processes that DVC believes to run: those in its files of locks, of the project and of its experiments."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.pipeline.doctor.finding import Finding, set_aside
from edm2.runtime.limits import parse_json, require_file

RWLOCK = Path(".dvc/tmp/rwlock")
EXPERIMENTS = Path(".dvc/tmp/exps")
CLOCK_SECONDS = 60.0  # by which the times of processes and of files may differ


@dataclass(frozen=True)
class Holder:
    """A process that locks results.

    Attributes:
        runs: whether it still does: a process with that number that started later is another one.
    """

    process: int
    command: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.process} ({self.command})"


def process_locks() -> Iterator[Finding]:
    """Locks of processes that have ended: DVC waits for no lock, but stops at one."""
    for path in (RWLOCK, EXPERIMENTS / RWLOCK.name):
        try:
            ended = [str(holder) for holder in _holders(path) if not holder.runs]
        except ValueError as error:
            yield Finding(
                path,
                f"cannot be read ({error})",
                "Every command of DVC stops with `Unable to read RWLock-file`.",
                "Remove it when no process of DVC runs.",
                unless_dvc_runs(partial(set_aside, path)),
            )
            continue
        if ended:
            yield Finding(
                path,
                f"has locks of processes that have ended: {', '.join(ended)}",
                "DVC may take another process with such a number for one of them, and stop with `is busy`.",
                "Remove it when no process of DVC runs.",
                unless_dvc_runs(partial(set_aside, path)),
            )


def experiments() -> Iterator[Finding]:
    """Temporary checkouts of experiments that were killed."""
    for folder, path in _checkouts():
        holders = _holders(path)
        if holders and not any(holder.runs for holder in holders):
            yield Finding(
                folder,
                "is the checkout of an experiment that was killed",
                "It takes space, and `dvc exp show` has it as running.",
                f"Remove it, and what names it in {EXPERIMENTS / 'run'}.",
                unless_dvc_runs(partial(_set_aside_experiment, folder)),
            )


def unless_dvc_runs(repair: Callable[[], str]) -> Callable[[], str]:
    """A repair that is refused while a process of DVC works on this project."""

    def guarded() -> str:
        for path in (RWLOCK, *(path for _, path in _checkouts())):
            try:
                running = [str(holder) for holder in _holders(path) if holder.runs]
            except ValueError:
                continue
            if running:
                names = ", ".join(running)
                raise UserError(f"process {names} is running: run this again when it has ended.")
        return repair()

    return guarded


def _checkouts() -> Iterable[tuple[Path, Path]]:
    """The temporary checkouts of experiments, of the queue and others, with their files of locks."""
    for pattern in ("tmp*", "standalone/tmp*"):
        for folder in sorted(EXPERIMENTS.glob(pattern)):
            yield folder, folder / RWLOCK


def _set_aside_experiment(folder: Path) -> str:
    for note in EXPERIMENTS.glob("run/*/*.run"):
        if Path(parse_json(note.read_bytes())["root_dir"]) == folder.absolute():
            set_aside(note.parent)
    return set_aside(folder)


def _holders(path: Path) -> list[Holder]:
    """
    Raises:
        ValueError: the file is no JSON, or not as DVC writes it.
    """
    if not path.exists():
        return []
    require_file(path)
    written = path.stat().st_mtime
    try:
        found = set(_infos(parse_json(path.read_bytes())))
    except (AttributeError, KeyError, TypeError):
        raise ValueError("not as DVC writes it") from None
    return [Holder(pid, command, _runs(pid, written)) for pid, command in sorted(found)]


def _infos(tree: Any) -> Iterator[tuple[int, str]]:
    """Process and command of each lock: one that writes, or several that read."""
    readers = [info for infos in tree.get("read", {}).values() for info in infos]
    for info in [*readers, *tree.get("write", {}).values()]:
        yield int(info["pid"]), str(info["cmd"])


def _runs(process: int, written: float) -> bool:
    import psutil

    try:
        found = psutil.Process(process)
        is_older = found.create_time() <= written + CLOCK_SECONDS
        return is_older and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # of another user
        return True
