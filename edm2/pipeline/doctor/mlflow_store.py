"""The project's MLflow store, and runs that it has not taken."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edm2.params import UserError, load
from edm2.params.tracking_checks import SQLITE, sqlite_path
from edm2.pipeline.doctor.finding import Finding, reason, set_aside
from edm2.runtime.delivery.destination import destination
from edm2.runtime.delivery.outbox import REMEDY, Outbox, outboxes
from edm2.runtime.delivery.sqlite import store_problem
from edm2.runtime.limits import require_file
from edm2.runtime.locks import is_held

EMPTY = "Nothing is in it: the next stage makes it again."


def store() -> Iterator[Finding]:
    """The file of the store: the project's, or the one in SQLite that params name."""
    path = _path()
    if not path.exists():
        return
    require_file(path)
    if path.stat().st_size == 0:
        yield Finding(path, "is empty", EMPTY, "Remove it.", partial(_remove_empty, path))
        return
    problem, remedy = store_problem(path)
    if problem:
        meaning = "Stages run, but MLflow does not get what they log; .state keeps it."
        yield Finding(path, problem, meaning, remedy)


def _path() -> Path:
    try:
        uri = destination(load("params.yaml")).uri
    except UserError:
        uri = None
    is_file = uri is not None and uri.startswith(SQLITE)
    return sqlite_path(str(uri), Path.cwd()) if is_file else Path(".mlflow/mlflow.db")


def _remove_empty(path: Path) -> str:
    if path.stat().st_size:
        raise UserError("something is in it now.")
    return set_aside(path)


def deliveries() -> Iterator[Finding]:
    """Runs that a kill or an outage has left undelivered, and so RUNNING in MLflow."""
    for outbox in outboxes(Path()):
        try:
            if is_held(outbox.lock) or not outbox.is_pending:
                continue
            ended = outbox.receipt.status == "RUNNING"
            _ = outbox.description, list(outbox.entries())
        except (UserError, OSError, ValueError, KeyError) as error:
            yield _unreadable(outbox, error)
            continue
        problem = "its run has ended, but is RUNNING in MLflow" if ended else "is not delivered"
        yield Finding(
            outbox.path, problem, "MLflow does not show all of it.", "Run `edm2 track sync`."
        )


def _unreadable(outbox: Outbox, error: Exception) -> Finding:
    return Finding(
        outbox.path,
        f"cannot be read ({reason(error, outbox.path)})",
        "MLflow does not get what the run logs; log.jsonl beside it has the values.",
        REMEDY,
    )
