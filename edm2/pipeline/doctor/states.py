"""What stages have in `.state`, and incomplete files that ended processes have left."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from edm2.data.tars import INDICES
from edm2.params import UserError
from edm2.pipeline.cleaning import STATE, temporaries
from edm2.pipeline.doctor.finding import Finding, reason, set_aside
from edm2.runtime.checkpoint import verified_index
from edm2.runtime.limits import require_file
from edm2.runtime.locks import exclusive, is_held
from edm2.runtime.log import read_log
from edm2.runtime.state import State
from edm2.runtime.temporaries import PATTERN, is_abandoned, remove

NEXT_LAUNCH = "The next launch of that stage removes it"


def _states() -> Iterator[State]:
    """All states that no process has open."""
    for folder in sorted(path for path in STATE.glob("*/*") if path.is_dir()):
        state = State(folder)
        if folder.parent != INDICES and not (is_held(state.use) or is_held(state.lock)):
            yield state


def incomplete_files() -> Iterator[Finding]:
    """Files and folders under temporary names, which a process has not renamed before it ended."""
    for path in sorted(filter(is_abandoned, temporaries())):
        remedy = "The next process that writes there removes it, or `edm2 clean --yes`."
        yield _incomplete(path, remedy, partial(_remove, path, None))
    for state in _states():
        for path in sorted(state.folder.rglob(PATTERN)):
            shared = state.items in path.parents and not is_abandoned(path)
            if not (shared or path.parent.name.endswith(".partial")):
                yield _incomplete(path, f"{NEXT_LAUNCH}.", partial(_remove, path, state))


def _incomplete(path: Path, remedy: str, repair: partial[str]) -> Finding:
    meaning = "It takes space, and is part of no result."
    return Finding(path, "is incomplete, and no process writes it", meaning, remedy, repair)


def _remove(path: Path, state: State | None) -> str:
    with nullcontext(True) if state is None else exclusive(state.lock, wait=False) as free:
        if not free:
            raise UserError("a stage has begun to use it.")
        remove(path)
    return "removed"


def notes() -> Iterator[Finding]:
    """Notes that cannot be read."""
    for state in _states():
        try:
            state.read_notes()
        except (UserError, ValueError, OSError) as error:
            yield Finding(
                state.notes,
                f"cannot be read ({reason(error, state.notes)})",
                "The stage stops at it; results that are complete are computed again without it.",
                "Remove it: checkpoints and complete shards beside it are kept.",
                partial(_set_aside, state.notes, state),
            )


def logs() -> Iterator[Finding]:
    """Logs with a row that is not as it was written: results have their values, so that none is removed."""
    for state in _states():
        try:
            if state.log.exists():
                require_file(state.log)
            read_log(state.log)
        except (UserError, OSError) as error:
            problem, _, remedy = str(error).removeprefix(f"{state.log}: ").partition(". ")
            yield Finding(state.log, problem, "The stage stops at it.", remedy)


def checkpoints() -> Iterator[Finding]:
    """Checkpoints that cannot be read, or have another checksum than was noted. All are read."""
    for state in _states():
        for folder in state.checkpoints():
            try:
                verified_index(folder)
            except (UserError, OSError) as error:
                yield Finding(
                    folder,
                    f"is damaged ({reason(error, folder)})",
                    "The training stops at it.",
                    "Remove it: the training continues from the checkpoint before, or from the beginning.",
                    partial(_set_aside, folder, state),
                )


def _set_aside(path: Path, state: State) -> str:
    with exclusive(state.lock, wait=False) as free:
        if not free:
            raise UserError("a stage has begun to use it.")
        return set_aside(path)
