"""MLflow stores in SQLite: at any path, and complete or absent.

MLflow takes about two seconds of migrations to make a store, and one that is killed meanwhile is broken for
good; so a store is made in memory and written at once. MLflow takes paths as URLs, in which `?` and `%` have
a meaning; so connections are opened here. SQLite opens no path of more than 512 bytes; a store there is read
into memory, and written back as a whole.
"""

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edm2.runtime.files import replacing
from edm2.runtime.locks import exclusive
from edm2.runtime.system_errors import WHILE_WRITING
from edm2.runtime.temporaries import remove_left_of

MAX_PATH = 500  # bytes; SQLite takes 512 with the name of its journal
SECONDS_FOR_A_LOCK = 2.0
SECONDS_UNTOUCHED = 3.0  # whoever makes a store writes more often than that
MIGRATIONS = "store/db_migrations/versions"  # in the package mlflow
REPLACE = (
    "Move it away when nothing logs to it: the next stage makes a new one. What it holds, "
    "`sqlite3 FILE .recover` may read."
)
COMPANIONS = ("", "-journal", "-wal", "-shm")
Say = Callable[[str], None]

_connectors: dict[str, Callable[[], sqlite3.Connection]] = {}  # by the name in MLflow's URI


class SqliteStore:
    """The file of a store, which is made if there is none.

    Attributes:
        uri: for MlflowClient, in this process only.

    Raises:
        OSError, sqlite3.Error: the file cannot be read and written, or is locked.
    """

    def __init__(self, path: Path, say: Say) -> None:
        self.path = path
        self.lock = path.with_name(
            "lock" if path.parent.name == ".mlflow" else f".{path.name}.lock"
        )
        with exclusive(self.lock):
            if path.exists() and not self._too_long and _is_half_made(path):
                for companion in COMPANIONS:
                    _set_aside(Path(f"{path}{companion}"))
                say(
                    f"MLflow: {path} had been left half made, without any run, by a process that was "
                    "killed. It is made again; what there was is in the files *.half-made beside it."
                )
            if not path.exists() or path.stat().st_size == 0:
                remove_left_of(path)  # by a process that was killed
                _write(path, _empty_store(path))
        self.inode = path.stat().st_ino
        self.memory: sqlite3.Connection | None = None
        self.uri = _register(self._connect, in_memory=self._too_long)

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still the one that was opened."""
        return self.path.exists() and (self._too_long or self.path.stat().st_ino == self.inode)

    @contextmanager
    def session(self) -> Iterator[None]:
        """What MLflow does within the block is in the file afterwards."""
        if not self._too_long:
            yield
            return
        with exclusive(self.lock):
            if self.memory is not None:
                self.memory.deserialize(self.path.read_bytes())
            yield
            if self.memory is not None:
                _write(self.path, self.memory.serialize())

    def relocate(self, old: str, new: str) -> None:
        """Tell the store that the artifacts below the URI `old` are below `new`: the project was moved."""
        with self._connect() as connection:
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
            ):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )

    @property
    def _too_long(self) -> bool:
        return len(os.fsencode(self.path)) > MAX_PATH

    def _connect(self) -> sqlite3.Connection:
        if not self._too_long:
            return _open(self.path)
        if self.memory is None:
            self.memory = sqlite3.connect(":memory:")
            self.memory.deserialize(self.path.read_bytes())
        return self.memory


def _is_half_made(path: Path) -> bool:
    """Whether MLflow began to make this store and did not finish: its last step adds an experiment.

    Raises:
        sqlite3.Error: the file is locked, or is no database.
    """
    if path.stat().st_size == 0 or _is_complete(path):
        return False
    untouched = time.time() - path.stat().st_mtime
    if untouched < SECONDS_UNTOUCHED:  # an MLflow server may be making it just now
        time.sleep(SECONDS_UNTOUCHED - max(untouched, 0.0))
        return _is_half_made(path)
    return True


def store_problem(path: Path) -> tuple[str, str]:
    """What is wrong with the file of a store, and the way out; empty if nothing is. It is only read.

    What a killed process was writing SQLite undoes when the file is next written: that is no problem.
    """
    try:
        with closing(_open(path, "ro", seconds=0)) as connection:
            (check,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            version = "SELECT version_num FROM alembic_version"
            revision = (
                connection.execute(version).fetchone() if "alembic_version" in tables else None
            )
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None) or 0
        if code & 0xFF == sqlite3.SQLITE_READONLY:
            return "", ""
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            return (
                "is locked by a process",
                "Wait, or stop what writes to it, like an MLflow server.",
            )
        return f"cannot be read ({error})", REPLACE
    if check != "ok":
        return f"is damaged ({check.splitlines()[-1]})", REPLACE
    if "experiments" not in tables:
        return "is half made, or no store of MLflow", REPLACE
    return _revision_problem(revision[0] if revision else "")


def _revision_problem(revision: str) -> tuple[str, str]:
    """Whether the installed MLflow has other tables than a store, by its migrations."""
    spec = find_spec("mlflow")
    folder = Path(next(iter((spec and spec.submodule_search_locations) or [""])))
    scripts = [path.read_text() for path in (folder / MIGRATIONS).glob("*_*.py")]
    before = {
        match[1] for text in scripts if (match := re.search(r"^down_revision = .(\w+)", text, re.M))
    }
    known = {
        match[1] for text in scripts if (match := re.search(r"^revision = .(\w+)", text, re.M))
    }
    if known and revision not in known:
        return "was made by another version of MLflow", "Install that version, or a newer one."
    if revision in before:
        return (
            "was made by an older version of MLflow",
            "Copy it, then run `mlflow db upgrade URI`.",
        )
    return "", ""


def _is_complete(path: Path) -> bool:
    """Whether a database has an experiment, or tables of others than MLflow."""
    with closing(_open(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # it can be written, and nobody else does
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return bool(tables - {"alembic_version"})
        return connection.execute("SELECT 1 FROM experiments").fetchone() is not None


def _empty_store(path: Path) -> bytes:
    """A new store for `path`."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # MLflow pastes where the files of its experiment Default are into SQL; a URI has no quotes
    files = f"file://{quote(os.fsencode(path.parent / 'mlruns'))}"
    memory = sqlite3.connect(":memory:")
    with closing(memory):
        SqlAlchemyStore(_register(lambda: memory, in_memory=True), files)
        return memory.serialize()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _set_aside(path: Path) -> None:
    if path.exists():
        path.replace(f"{path}.half-made")


def _open(path: Path, mode: str = "rw", seconds: float = SECONDS_FOR_A_LOCK) -> sqlite3.Connection:
    """A connection to a file that exists."""
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
    try:
        return sqlite3.connect(uri, uri=True, timeout=seconds, check_same_thread=False)
    except sqlite3.Error as error:
        error.add_note(f"{WHILE_WRITING}{path}")
        raise


def _register(connect: Callable[[], sqlite3.Connection], in_memory: bool) -> str:
    """A new URI for MLflow whose connections `connect` makes."""
    _listen()
    name = f"edm2-{time.time_ns()}-{len(_connectors)}"
    _connectors[name] = connect
    return f"sqlite:///file:{name}?mode=memory&uri=true" if in_memory else f"sqlite:///{name}"


@cache
def _listen() -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connect(dialect: Any, record: Any, args: Any, options: Any) -> sqlite3.Connection | None:
        name = re.search(r"edm2-\d+-\d+", Path(str(args[0])).name) if args else None
        connector = _connectors.get(name[0]) if name else None
        return connector() if connector else None  # None: SQLAlchemy connects

    event.listen(Engine, "do_connect", connect)
