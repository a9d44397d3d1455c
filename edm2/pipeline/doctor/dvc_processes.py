"""Processes that DVC believes to run: those in its file of locks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.pipeline.doctor.finding import Finding, set_aside
from edm2.runtime.limits import parse_json, require_file

RWLOCK = Path(".dvc/tmp/rwlock")
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


def process_locks() -> Iterator[Finding]:
    """Locks of processes that have ended: DVC waits for no lock, but stops at one."""
    try:
        ended = [holder for holder in _holders() if not holder.runs]
    except ValueError as error:
        yield Finding(
            RWLOCK,
            f"cannot be read ({error})",
            "Every command of DVC stops with `Unable to read RWLock-file`.",
            "Remove it when no process of DVC runs.",
            _remove,
        )
        return
    if ended:
        names = ", ".join(f"{holder.process} ({holder.command})" for holder in ended)
        yield Finding(
            RWLOCK,
            f"has locks of processes that have ended: {names}",
            "DVC may take another process with such a number for one of them, and stop with `is busy`.",
            "Remove it when no process of DVC runs.",
            unless_dvc_runs(_remove),
        )


def unless_dvc_runs(repair: Callable[[], str]) -> Callable[[], str]:
    """A repair that is refused while a process of DVC works on this project."""

    def guarded() -> str:
        try:
            running = [holder for holder in _holders() if holder.runs]
        except ValueError:
            running = []
        for holder in running:
            raise UserError(
                f"process {holder.process} ({holder.command}) is running: run this again when it has ended."
            )
        return repair()

    return guarded


def _remove() -> str:
    return set_aside(RWLOCK)


def _holders() -> list[Holder]:
    """
    Raises:
        ValueError: the file is no JSON, or not as DVC writes it.
    """
    if not RWLOCK.exists():
        return []
    require_file(RWLOCK)
    written = RWLOCK.stat().st_mtime
    try:
        found = set(_infos(parse_json(RWLOCK.read_bytes())))
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
