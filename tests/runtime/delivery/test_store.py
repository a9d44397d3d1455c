"""Runs in real MLflow stores, in SQLite."""

import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from tiny import ROOT

from edm2.params import Params
from edm2.params.checks import project_root
from edm2.runtime import tracking
from edm2.runtime.delivery import sqlite
from edm2.runtime.delivery.deliver import Deliverer
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.delivery.pipeline_run import PipelineRun
from edm2.runtime.delivery.sqlite import SqliteStore
from edm2.runtime.delivery.views import experiment_tags
from edm2.runtime.interruption import Interrupted
from edm2.runtime.state import open_state
from edm2.runtime.tracking import NOTE, RunDescription, open_run

pytestmark = pytest.mark.slow


class Courier:
    """Delivers in this process, at the end of the run."""

    said: ClassVar[list[str]] = []

    def __init__(self, outbox: Outbox, store: str) -> None:
        self.outbox = outbox

    def close(self) -> None:
        for _ in Deliverer(project_root(), self.said.append).deliver(self.outbox):
            pass


@pytest.fixture(autouse=True)
def deliver_in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(tracking, "Courier", Courier)
    monkeypatch.setattr(Courier, "said", [])
    return Courier.said


VALUES = {"vae": {"losses": {"kl": 0.1}}, "diffusion.size": None}
DATASET = {
    "name": "digits train",
    "digest": "8e134057e2384552",
    "source_type": "local",
    "source": '{"uri": "data/images"}',
    "schema": '{"mlflow_tensorspec": {"features": []}}',
    "profile": '{"images": 1528}',
    "context": "training",
}


@pytest.fixture
def run(params: Params, new_stores: None) -> Callable[..., str]:
    """run(root, ...) logs a row and a file in a project, and returns the name of the MLflow run."""

    def run(
        root: Path,
        fingerprint: str = "f",
        nimg: int = 4,
        pipeline: PipelineRun | None = None,
        **section: Any,
    ) -> str:
        section = {"mlflow": True, "uri": None, "experiment": "tests", **section}
        changed = params.model_copy(update={"tracking": params.tracking.model_copy(update=section)})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DVC_ROOT", str(root))
            describe = partial(RunDescription, {}, VALUES, pipeline, [DATASET])
            with (
                open_state("s", fingerprint) as state,
                open_run("s G", changed, state, describe) as opened,
            ):
                opened.log(nimg, {"loss": 2.0 / nimg, "max": math.inf})
                (state.results / "a.png").write_bytes(b"picture")
                opened.log_artifact(state.results / "a.png", "figures")
                opened.log_to_pipeline({"best/fd": 1.5}, {NOTE: "It helps."})
        return Outbox(state.folder).receipt.run_id

    return run


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """Rows of a store, read without MLflow; works for any path."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(path.read_bytes())
        return connection.execute(statement).fetchall()


def losses(path: Path) -> list[tuple[int, float]]:
    return query(path, "SELECT step, value FROM metrics WHERE key = 'loss' ORDER BY step")


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


# Half-made stores


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


# What was deleted, moved or resumed


@pytest.fixture
def mlflow(run, tmp_path: Path) -> SimpleNamespace:
    """A project with one run, and a client of its store."""
    from mlflow import MlflowClient

    run_id = run(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/.mlflow/mlflow.db")
    return SimpleNamespace(client=client, run_id=run_id, root=tmp_path)


def test_a_deleted_experiment_is_restored(
    mlflow: SimpleNamespace, run, deliver_in_this_process
) -> None:
    mlflow.client.delete_experiment(mlflow.client.get_experiment_by_name("tests").experiment_id)
    new = run(mlflow.root, "g", nimg=8)
    assert mlflow.client.get_run(new).data.metrics["loss"] == 0.25
    assert mlflow.client.get_experiment_by_name("tests").lifecycle_stage == "active"
    assert "tests had been deleted" in deliver_in_this_process[0]


def test_a_deleted_run_is_restored(mlflow: SimpleNamespace, run, deliver_in_this_process) -> None:
    mlflow.client.delete_run(mlflow.run_id)
    assert run(mlflow.root, nimg=8) == mlflow.run_id
    assert mlflow.client.get_run(mlflow.run_id).info.lifecycle_stage == "active"
    assert losses(mlflow.root / ".mlflow/mlflow.db") == [(4, 0.5), (8, 0.25)]
    assert "had been deleted" in deliver_in_this_process[0]


def test_a_dataset_is_one_input_of_each_run(mlflow: SimpleNamespace, run) -> None:
    """Also if it is delivered twice, since the answer was lost."""
    outbox = Outbox(mlflow.root / ".state/s/f")
    outbox.receipt = replace(outbox.receipt, values=0)
    runs = [run(mlflow.root, nimg=8), run(mlflow.root, "g")]
    assert runs[0] == mlflow.run_id
    for run_id in runs:
        (item,) = mlflow.client.get_run(run_id).inputs.dataset_inputs
        assert {**dict(item.dataset), "context": item.tags[0].value} == DATASET
    found = mlflow.client.search_runs(
        [mlflow.client.get_run(mlflow.run_id).info.experiment_id],
        "dataset.name = 'digits train' AND dataset.context = 'training'",
    )
    assert {run.info.run_id for run in found} == set(runs)


def test_a_removed_store_gets_whole_runs_again(mlflow: SimpleNamespace, run) -> None:
    shutil.rmtree(mlflow.root / ".mlflow")
    assert run(mlflow.root, nimg=8) != mlflow.run_id
    assert losses(mlflow.root / ".mlflow/mlflow.db") == [(4, 0.5), (8, 0.25)]


def test_a_moved_project_keeps_its_files_together(
    run, tmp_path: Path, deliver_in_this_process
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run_id = run(old)
    old.rename(new)
    second = run(new, "g", nimg=8)
    assert not old.exists()
    location = (new / ".mlflow/artifacts/tests").as_uri()
    uris = query(new / ".mlflow/mlflow.db", "SELECT run_uuid, artifact_uri FROM runs")
    assert dict(uris) == {name: f"{location}/{name}/artifacts" for name in (run_id, second)}
    assert "was moved" in deliver_in_this_process[0]


def test_rows_sent_twice_are_one_row_to_mlflow(mlflow: SimpleNamespace) -> None:
    """Its answer may be lost after it has taken a batch."""
    from mlflow.entities import Metric

    row = Metric("sent twice", 0.5, 1000, 4)
    for _ in range(2):
        mlflow.client.log_batch(mlflow.run_id, metrics=[row])
    assert len(mlflow.client.get_metric_history(mlflow.run_id, "sent twice")) == 1


def test_the_run_has_params_tags_and_status(mlflow: SimpleNamespace, params: Params) -> None:
    run = mlflow.client.get_run(mlflow.run_id)
    assert run.data.params == {"vae.losses.kl": "0.1", "diffusion.size": "None"}
    assert math.isnan(run.data.metrics["max"])  # it was ∞, which SQL stores do not have
    assert (run.info.run_name, run.info.status) == ("s G", "FINISHED")


def test_a_stage_is_a_child_of_its_pipeline_run(mlflow: SimpleNamespace, run) -> None:
    stage = PipelineRun("k", False, lambda: ("main: G", {"stage": "pipeline"}, {"configs": "G"}))
    child = mlflow.client.get_run(run(mlflow.root, "g", pipeline=stage))
    parent = mlflow.client.get_run(child.data.tags["mlflow.parentRunId"])
    assert (parent.info.run_name, parent.info.status) == ("main: G", "SCHEDULED")
    assert (parent.data.metrics, parent.data.params) == ({"best/fd": 1.5}, {"configs": "G"})
    assert parent.data.tags[NOTE] == "It helps."
    run(mlflow.root, "h", pipeline=replace(stage, is_last=True))
    assert mlflow.client.get_run(parent.info.run_id).info.status == "FINISHED"
    tags = mlflow.client.get_experiment(parent.info.experiment_id).tags
    assert tags == {**tags, **experiment_tags(["best/fd"])}


def test_an_interrupted_run_is_killed(
    mlflow: SimpleNamespace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = params.tracking.model_copy(update={"mlflow": True, "experiment": "tests"})
    changed = params.model_copy(update={"tracking": section})
    monkeypatch.setenv("DVC_ROOT", str(mlflow.root))
    with (
        pytest.raises(Interrupted),
        open_state("s", "f") as state,
        open_run("s G", changed, state, partial(RunDescription, {}, VALUES)),
    ):
        raise Interrupted(15)
    assert mlflow.client.get_run(mlflow.run_id).info.status == "KILLED"


# The process


STAGE = """
import os, signal, sys, time
from pathlib import Path
from edm2.params import load
from edm2.runtime.state import open_state
from edm2.runtime.tracking import RunDescription, open_run

describe = lambda: RunDescription({}, {})
with open_state("s", "f") as state, open_run("s", load(sys.argv[1]), state, describe) as run:
    run.log(4, {"loss": 0.5})
    exec(sys.argv[2])
"""


def start_stage(root: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STAGE, str(ROOT / "params.yaml"), code],
        cwd=root,
        env={**os.environ, "DVC_ROOT": str(root), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_a_process_delivers_even_when_its_run_is_killed(tmp_path: Path) -> None:
    done = start_stage(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    store = tmp_path / ".mlflow/mlflow.db"
    deadline = time.monotonic() + 60
    while Outbox(tmp_path / ".state/s/f").receipt.status != "KILLED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert losses(store) == [(4, 0.5)]
    assert query(store, "SELECT status FROM runs") == [("KILLED",)]


def test_a_server_that_never_answers_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = start_stage(tmp_path, "pass", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert f"MLflow logs to {uri}" in done.stderr
    assert "edm2 track sync" in done.stderr
    assert Outbox(tmp_path / ".state/s/f").is_pending
