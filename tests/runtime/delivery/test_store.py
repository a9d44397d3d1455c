"""Stores in SQLite: in any folder, half made, locked, or of something else."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from store_rows import losses, query

from edm2.runtime.delivery import sqlite
from edm2.runtime.delivery.sqlite import SqliteStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("deliver_in_this_process")]

FOLDERS = [
    "p%20x",
    "a b",
    'it\'s "q"',
    "x#y",
    "x?y=1&z",
    "größe ☃",
    "back\\slash",
    "new\nline",
    "100%",
    os.fsdecode(b"caf\xe9"),
    "/".join(["l" * 120] * 6),
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_project_can_be_in_any_folder(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / "projects" / name
    elsewhere = tmp_path / "elsewhere"
    root.mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_id = run(root)
    run(root, nimg=8)
    store = root / ".mlflow" / "mlflow.db"
    assert losses(store) == [(4, 0.5), (8, 0.25)]
    assert query(store, "SELECT run_uuid, status FROM runs") == [(run_id, "FINISHED")]
    folder = root / ".mlflow" / "artifacts" / "tests" / run_id / "artifacts"
    assert (folder / "figures" / "a.png").read_bytes() == b"picture"
    assert json.loads((folder / "params.json").read_text())["configs"] == ["G"]
    parts = name.split("/")
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "projects"]
    assert [path.name for path in (tmp_path / "projects").iterdir()] == [parts[0]]


def test_a_store_can_be_made_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow pastes the current folder, which is the project's, into the SQL that makes a store."""
    root = tmp_path / os.fsdecode(b'it\'s a "b" :c caf\xe9')
    root.mkdir()
    monkeypatch.chdir(root)
    SqliteStore(root / "my.db", print)
    assert query(root / "my.db", "SELECT name FROM experiments") == [("Default",)]
    assert not (root / "mlruns").exists()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///my.db", "my.db"),
        ("sqlite:///sub/my%20own.db", "sub/my own.db"),
        ("sqlite:////{root}/x.db", "x.db"),
    ],
)
def test_relative_uris_start_from_the_project(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, path: str
) -> None:
    """`dvc exp run --temp` runs elsewhere, with DVC_ROOT set to the project."""
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_id = run(root, uri=uri.format(root=str(root)[1:]))
    assert losses(root / path) == [(4, 0.5)]
    assert ((root / path).parent / "mlruns/tests" / run_id / "artifacts/figures/a.png").exists()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("experiment", ["../../out", "/tmp/x", "a/b", "...", "é" * 400, "it's"])
def test_an_experiment_can_have_any_name(run, tmp_path: Path, experiment: str) -> None:
    root = tmp_path / "project"
    run_id = run(root, experiment=experiment)
    (file,) = (root / ".mlflow").rglob("a.png")
    assert file.parents[2].name == run_id
    assert file.is_relative_to(root / ".mlflow" / "artifacts")
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def kill_while_made(path: Path, statements: int) -> None:
    """Leave what an MLflow leaves that is killed in its migrations."""
    code = (
        "import os, sys; from sqlalchemy import event; from sqlalchemy.engine import Engine\n"
        "left = [int(sys.argv[2])]\n"
        "def count(*args):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os._exit(9)\n"
        "event.listen(Engine, 'after_cursor_execute', count)\n"
        "from mlflow import MlflowClient; MlflowClient('sqlite:///' + sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(statements)], check=False)
    assert done.returncode == 9


def test_a_half_made_store_is_made_again(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deliver_in_this_process: list[str]
) -> None:
    monkeypatch.setattr(sqlite, "SECONDS_UNTOUCHED", 0.01)
    path = tmp_path / ".mlflow" / "mlflow.db"
    path.parent.mkdir()
    kill_while_made(path, 200)
    assert query(path, "SELECT name FROM sqlite_master WHERE name = 'experiments'")
    run(tmp_path)
    assert losses(path) == [(4, 0.5)]
    assert "half made" in deliver_in_this_process[0]
    assert path.with_name("mlflow.db.half-made").exists()


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE alembic_version (version_num)"],
        ["CREATE TABLE experiments (name)", "CREATE TABLE alembic_version (version_num)"],
    ],
)
def test_half_made_stores_are_recognized(
    tmp_path: Path, new_stores, monkeypatch, statements
) -> None:
    monkeypatch.setattr(sqlite, "SECONDS_UNTOUCHED", 0.01)
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    said: list[str] = []
    SqliteStore(path, said.append)
    assert "half made" in said[0]
    assert query(path, "SELECT name FROM experiments") == [("Default",)]


def test_databases_with_content_are_kept(tmp_path: Path, new_stores, empty_store: bytes) -> None:
    """A whole store, and a database of something else."""
    said: list[str] = []
    store, other = tmp_path / "store.db", tmp_path / "other.db"
    store.write_bytes(empty_store)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
    for path in (store, other):
        before = path.read_bytes()
        SqliteStore(path, said.append)
        assert path.read_bytes() == before
    assert said == []


def test_a_file_that_is_no_database_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        SqliteStore(path, print)
    assert path.read_bytes() == b"not a database" * 100


def test_a_locked_store_is_an_error_and_is_kept(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    monkeypatch.setattr(sqlite, "SECONDS_FOR_A_LOCK", 0.01)
    path = tmp_path / ".mlflow" / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            run(tmp_path, nimg=8)
    run(tmp_path, nimg=12)
    assert losses(path) == [(4, 0.5), (8, 0.25), (12, 1 / 6)]
