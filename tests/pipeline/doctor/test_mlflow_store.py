"""Stores of MLflow that are half made, damaged, locked or of another version; runs left undelivered."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edm2.pipeline.doctor.mlflow_store import deliveries, store
from edm2.runtime.delivery.outbox import Outbox, Receipt
from edm2.runtime.delivery.sqlite import store_problem
from edm2.runtime.state import State, open_state

STORE = Path(".mlflow/mlflow.db")


def make_store(revision, *statements):
    STORE.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(STORE)) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def revisions():
    """Of MLflow's tables: the latest, and the one before."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    scripts = ScriptDirectory(str(Path(utils.__file__).parents[1] / "db_migrations"))
    head = scripts.get_current_head()
    return head, scripts.get_revision(head).down_revision


def test_no_store_is_no_problem(root):
    assert not list(store())


def test_an_empty_store_is_moved_aside(root):
    STORE.parent.mkdir()
    STORE.touch()
    (finding,) = store()
    assert finding.place == STORE
    finding.repair()
    assert not STORE.exists()


def test_a_damaged_store_is_named_and_kept(root):
    rows = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 5000)"
    make_store("x", f"INSERT INTO experiments {rows} SELECT x FROM n")
    content = STORE.read_bytes()
    for damaged in (b"no database at all, but text", content[: len(content) // 2]):
        STORE.write_bytes(damaged)
        (finding,) = store()
        assert finding.place == STORE
        assert finding.repair is None
        assert ".recover" in finding.remedy
        assert STORE.read_bytes() == damaged


def test_a_store_without_tables_is_half_made(root):
    STORE.parent.mkdir()
    with closing(sqlite3.connect(STORE)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    (finding,) = store()
    assert "half made" in finding.problem


def test_a_lock_is_not_waited_for(root):
    make_store("x")
    with closing(sqlite3.connect(STORE)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        (finding,) = store()
    assert "locked" in finding.problem
    assert not any("locked" in finding.problem for finding in store())


@pytest.mark.slow
def test_versions_of_the_tables_are_compared_with_those_of_the_installed_mlflow(root):
    newest, older = revisions()
    problems = {}
    for revision in (newest, older, "of-the-future"):
        make_store(revision)
        problems[revision] = store_problem(STORE)
        STORE.unlink()
    assert problems[newest] == ("", "")
    assert "older" in problems[older][0]
    assert "mlflow db upgrade" in problems[older][1]
    assert "another version" in problems["of-the-future"][0]


def make_outbox():
    outbox = Outbox(Path(".state/fid-G-0/abc"))
    outbox.folder.mkdir(parents=True)
    outbox.open({"name": "n", "tags": {}, "tracking": {"uri": None, "experiment": "e"}})
    outbox.add_status("RUNNING")
    return outbox


def test_a_run_that_a_kill_left_running_is_named(root):
    outbox = make_outbox()
    outbox.receipt = Receipt(run_id="r", values=outbox.size, files=outbox.size, status="RUNNING")
    (finding,) = deliveries()
    assert finding.place == outbox.path
    assert "RUNNING" in finding.problem
    assert "edm2 track sync" in finding.remedy
    with open_state("fid-G-0", "abc"):
        assert not list(deliveries())
    outbox.receipt = Receipt(run_id="r", values=outbox.size, files=outbox.size, status="KILLED")
    assert not list(deliveries())


def test_an_outbox_that_cannot_be_read_is_named(root):
    outbox = make_outbox()
    outbox.path.write_text("{\n")
    (finding,) = deliveries()
    assert "cannot be read" in finding.problem
    assert not State(outbox.folder).lock.exists()  # nothing is written
