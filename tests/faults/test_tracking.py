"""No store of MLflow fails a run or holds it up; what it has not taken is said once, and delivered later."""

import os
import resource
import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from campaign import spread
from deliveries import break_from, has_all
from tiny import ROOT, write_params
from tracking_server import FAULTS, listening, serving

from edm2.cli import main
from edm2.params import load
from edm2.runtime.delivery import courier, sqlite
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.log import read_log
from edm2.runtime.state import open_state
from edm2.runtime.tracking import RunDescription, open_run

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.usefixtures("impatient")]

# in the middle these are a success: 200, and nothing that says otherwise
LIKE_SUCCESS = ("nothing", "an empty object", "other fields", "empty names", "a status line alone")
LIKE_STORED = ("HTML", "no JSON", "a list", "null", "a number", "nested JSON")  # for files: 200
WAITING = ("never", "drip", "429 for an hour", "503 for an hour")


def test_every_answer_is_wrong(attempts, record):
    for name in FAULTS:
        break_from(attempts, name, 1)
    attempts.check("tracking servers, all answers", record)


def test_a_server_breaks_before_any_request(attempts, record):
    with serving() as server:
        attempts.deliver(attempts.outbox("undisturbed", server.uri))
        assert has_all(server)
        count = server.requests
    assert count > 8
    for name in [name for name in FAULTS if name not in LIKE_SUCCESS]:
        last = count - 1 if name in LIKE_STORED else count
        for number in spread(last, 3 if name in WAITING else last):
            break_from(attempts, name, number)
    attempts.check("tracking servers that break and come back", record)


@pytest.mark.parametrize("name", WAITING)
def test_sync_waits_for_no_server(attempts, capsys, name):
    for file in ("params.yaml", "dvc.yaml"):
        (attempts.root / file).symlink_to(ROOT / file)

    def sync():
        with pytest.raises(SystemExit) as end:
            main(["track", "sync"])
        return end.value.code, capsys.readouterr().out

    with serving() as server:
        outboxes = [attempts.outbox(name, server.uri) for name in ("a", "b")]
        server.fault = FAULTS[name]
        status, text = sync()
        assert status == 1
        lines = [line for line in text.splitlines() if line.startswith(".state/")]
        assert [line.split(" now (")[0] for line in lines] == [
            ".state/s/a: cannot be delivered",
            ".state/s/b: cannot be delivered",
        ]
        server.fault = None
        assert sync()[0] == 0
        assert not any(outbox.is_pending for outbox in outboxes)


# A run, with a process of its own


@pytest.fixture
def params(root, monkeypatch):
    monkeypatch.setattr(courier, "SECONDS_OF_START", 60.0)  # so that none is left to a later test
    return load(write_params(root / "params.yaml", {"tracking.experiment": "tests"}))


def run_once(params, uri, during=lambda: None):
    """A run that logs three rows; its outbox."""
    section = params.tracking.model_copy(update={"mlflow": True, "uri": uri})
    params = params.model_copy(update={"tracking": section})
    describe = partial(RunDescription, {}, {})
    with open_state("s", "f") as state, open_run("s", params, state, describe) as run:
        for nimg in range(3):
            run.log(nimg, {"loss": 0.5})
            during()
    assert [row["nimg"] for row in read_log(state.log)] == [0, 1, 2]
    return Outbox(state.folder)


@pytest.mark.parametrize("name", ["refuses", "listens", "drip", "503", "HTML", "garbage"])
def test_a_run_ends_and_says_once_what_waits(params, capsys, name):
    with serving() as server, listening() as silent:
        server.fault = FAULTS.get(name)
        uri = {"refuses": "http://127.0.0.1:1", "listens": silent}.get(name, server.uri)
        outbox = run_once(params, uri)
    lines = capsys.readouterr().err.splitlines()
    assert outbox.is_pending
    assert len(lines) <= 2  # why, and what to do
    assert uri in lines[-1]
    assert [line for line in lines if "edm2 track sync" in line] == lines[-1:]


def test_a_server_that_comes_back_during_a_run_gets_all(params, capsys, monkeypatch):
    for limit in ("SECONDS_OF_FLUSH", "SECONDS_OF_SILENCE", "SECONDS_AFTER_FAILURE"):
        monkeypatch.setattr(courier, limit, 60.0)
    with serving() as server:
        server.fault = FAULTS["503"]

        def repair():
            server.asked.wait()
            server.fault = None

        outbox = run_once(params, server.uri, repair)
        assert len([kind for kind, _ in server.taken if kind == "metrics"]) >= 3
    assert not outbox.is_pending
    assert "edm2 track sync" not in capsys.readouterr().err


# Stores in SQLite


DAMAGE = {
    "another file": lambda path: path.write_text("no database"),
    "a part of its header": lambda path: os.truncate(path, 50),
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeros": lambda path: path.write_bytes(path.read_bytes()[:4096].ljust(10**6, b"\0")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture(scope="module")
def empty_store():
    return sqlite._empty_store(Path("/project/.mlflow/mlflow.db"))


@pytest.fixture
def store(root, empty_store):
    """That of the project, without a run."""
    path = root / ".mlflow/mlflow.db"
    path.parent.mkdir()
    path.write_bytes(empty_store)
    return path


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT step FROM metrics WHERE key = 'loss'").fetchall()


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_store(attempts, store, record, name):
    content = store.read_bytes()
    DAMAGE[name](store)
    outbox = attempts.outbox("f", None)
    attempts.fail(name, outbox)
    store.rename(store.with_name("damaged"))
    store.write_bytes(content)
    attempts.complete(name, outbox, lambda: rows(store) == [(0,), (1,), (2,)])
    attempts.check(f"MLflow's SQLite store: {name}", record)


def test_a_locked_store(attempts, store, record, monkeypatch):
    monkeypatch.setattr(sqlite, "SECONDS_FOR_A_LOCK", 0.1)
    outbox = attempts.outbox("f", None)
    with closing(sqlite3.connect(store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        attempts.fail("locked", outbox)
    attempts.complete("locked", outbox, lambda: rows(store) == [(0,), (1,), (2,)])
    attempts.check("MLflow's SQLite store: locked", record)


def test_a_store_that_cannot_be_written(attempts, store, record, monkeypatch):
    connect = sqlite._open
    outbox = attempts.outbox("f", None)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_open", lambda path: read_only(connect(path)))
        attempts.fail("read-only", outbox)
    attempts.complete("read-only", outbox, lambda: rows(store) == [(0,), (1,), (2,)])
    attempts.check("MLflow's SQLite store: read-only", record)


def read_only(connection):
    connection.execute("PRAGMA query_only = 1")
    return connection


def test_a_store_on_a_full_disk(attempts, store, record):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for size in (0, 4096, 16384):
        outbox = attempts.outbox(f"f{size}", None)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            attempts.fail(f"full at {size}", outbox)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        attempts.complete(f"full at {size}", outbox, lambda: (2,) in rows(store))
    signal.signal(signal.SIGXFSZ, ignored)
    attempts.check("MLflow's SQLite store: full disk", record)
