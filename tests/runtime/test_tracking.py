"""The local log is the truth; MLflow is the view, and may fail."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edm2.params import Params
from edm2.runtime import tracking
from edm2.runtime.log import Log, read_log
from edm2.runtime.loop import Interrupted
from edm2.runtime.state import open_state
from edm2.runtime.tracking import Run, flatten, open_run


def on(params: Params, **tracking: Any) -> Params:
    section = params.tracking.model_copy(update={"mlflow": True, **tracking})
    return params.model_copy(update={"tracking": section})


# The local file


def test_rows_are_lines_of_json(tmp_path: Path) -> None:
    run = Run(Log(tmp_path / "log"), None)
    run.log(4, {"loss": 0.5})
    run.log(8, {"loss": 0.25, "lr": 1e-5})
    run.log(8, {})  # nothing to say, no line
    run.log(50, {"fid": 2.0}, axis="ema_length_permille")
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == [
        {"nimg": 4, "loss": 0.5},
        {"nimg": 8, "loss": 0.25, "lr": 1e-5},
        {"ema_length_permille": 50, "fid": 2.0},
    ]


def test_numbers_that_are_not_finite_are_kept_as_text(tmp_path: Path) -> None:
    Run(Log(tmp_path / "log"), None).log(
        4, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    )
    (line,) = (tmp_path / "log").read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"nimg": 4, "a": "nan", "b": "inf", "c": "-inf", "d": 1.0}


def test_last_line_that_was_cut_short_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_log(path) == []
    path.write_text('{"nimg": 4}\n{"nimg": 8, "los')
    assert read_log(path) == [{"nimg": 4}]


def test_row_after_a_line_that_was_cut_short_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"nimg": 4}\n{"nimg": 8, "los')
    Run(Log(path), None).log(8, {"loss": 1.0})
    assert read_log(path) == [{"nimg": 4}, {"nimg": 8, "loss": 1.0}]


def test_rollback_forgets_later_rows(tmp_path: Path) -> None:
    run = Run(Log(tmp_path / "log"), None)
    run.rollback(0)  # nothing there yet
    for nimg in (4, 8, 12):
        run.log(nimg, {"loss": math.nan})
    with (tmp_path / "log").open("a") as file:
        file.write('{"nimg": 16, "los')
    run.rollback(8)
    run.log(12, {"loss": 2.0})
    assert read_log(tmp_path / "log") == [
        {"nimg": 4, "loss": "nan"},
        {"nimg": 8, "loss": "nan"},
        {"nimg": 12, "loss": 2.0},
    ]


def test_rank_0_alone_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    Run(Log(tmp_path / "log"), None).log(4, {"loss": 0.5})
    Run(Log(tmp_path / "log"), None).rollback(0)
    assert not (tmp_path / "log").exists()


def test_flatten_joins_key_paths() -> None:
    tree = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}
    assert flatten(tree) == {"a.b.c": 1, "a.d": [1, 2], "e": None}


# MLflow, in SQLite


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory, params: Params) -> SimpleNamespace:
    """A run that was interrupted and resumed, as MLflow has it: `killed` and `finished`."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("project")
    (root / "elsewhere").mkdir()
    (root / "figure.png").write_bytes(b"picture")
    params = on(params, uri=None, experiment="tests").model_copy(update={"seed": 7})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("DVC_EXP_NAME", "tidal-axon")
        patch.chdir(root / "elsewhere")
        with open_state("train_vae", "abc") as state:
            tags = {"stage": "train_vae", "config": "G"}
            with pytest.raises(Interrupted), open_run("vae G", params, state, **tags) as run:  # noqa: PT012
                run.log_resolved_config({"resolved": {"weight_norm": "forced"}})
                run.log(4, {"train/loss": 0.5})
                raise Interrupted(15)
            client = MlflowClient(f"sqlite:///{root}/.mlflow/mlflow.db")
            run_id = state.read_notes()["mlflow_run"]
            killed = client.get_run(run_id)
            with open_run("vae G", params, state, **tags) as run:
                run.log_resolved_config({"resolved": {"weight_norm": "forced"}})
                running = client.get_run(run_id).info.status
                run.log(8, {"train/loss": 0.25, "held_out/psnr": math.inf})
                run.summary({"psnr": 31.5})
                run.artifact(root / "figure.png", "figures")
            with pytest.raises(ZeroDivisionError), open_run("failing", params, state):
                raise ZeroDivisionError
    return SimpleNamespace(
        root=root,
        params=params,
        client=client,
        run_id=run_id,
        killed=killed,
        running=running,
        finished=client.get_run(run_id),
        failed=client.get_run(run_id).info.status,
    )


def test_store_lies_below_the_project_root(view: SimpleNamespace) -> None:
    assert (view.root / ".mlflow" / "mlflow.db").exists()
    assert not list((view.root / "elsewhere").iterdir())
    experiment = view.client.get_experiment_by_name("tests")
    assert experiment.artifact_location == f"file://{view.root}/.mlflow/artifacts/tests"


def test_resumed_state_goes_on_with_its_run(view: SimpleNamespace) -> None:
    experiment = view.client.get_experiment_by_name("tests")
    assert len(view.client.search_runs([experiment.experiment_id])) == 1
    history = view.client.get_metric_history(view.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(4, 0.5), (8, 0.25)]


def test_status_tells_how_a_run_ended(view: SimpleNamespace) -> None:
    assert (view.killed.info.status, view.running) == ("KILLED", "RUNNING")
    assert view.failed == "FAILED"


def test_params_are_flat_and_whole(view: SimpleNamespace) -> None:
    params = view.finished.data.params
    assert params["seed"] == "7"
    assert params["vae.losses.kl"] == str(view.params.vae.losses.kl)
    assert params["diffusion.size"] == "None"
    assert params["resolved.weight_norm"] == "forced"  # settled by the stage
    found = view.client.list_artifacts(view.run_id)
    assert {file.path for file in found} == {"params.json", "figures"}
    text = next((view.root / ".mlflow" / "artifacts").rglob("params.json")).read_text()
    assert json.loads(text) == view.params.model_dump(mode="json")


def test_tags_name_the_work(view: SimpleNamespace) -> None:
    tags = view.finished.data.tags
    expected = {"stage": "train_vae", "config": "G", "seed": "7", "dvc_exp": "tidal-axon"}
    assert {key: tags[key] for key in expected} == expected
    assert tags["mlflow.runName"] == "vae G"
    assert "git_commit" in tags


def test_summary_and_artifacts_arrive(view: SimpleNamespace) -> None:
    metrics = view.finished.data.metrics
    assert metrics["best/psnr"] == 31.5
    assert metrics["held_out/psnr"] >= sys.float_info.max  # MLflow's way to keep ∞ in SQL
    picture = next((view.root / ".mlflow" / "artifacts").rglob("figures/figure.png"))
    assert picture.read_bytes() == b"picture"


# Outages


def test_store_that_cannot_be_reached_costs_a_warning(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    params = on(params, uri="http://127.0.0.1:9")
    with open_state("s", "f") as state, open_run("s", params, state) as run:
        run.log(4, {"loss": 0.5})
        run.summary({"loss": 0.5})
        run.artifact(root / "nothing.png")
    assert read_log(state.log) == [{"nimg": 4, "loss": 0.5}, {"summary": 0, "best/loss": 0.5}]
    warning = capsys.readouterr().err
    assert warning.count("MLflow cannot be reached") == 1
    assert "local log" in warning


class Store:
    """An MLflow client that fails as asked, and remembers what reached it."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.metrics: list[tuple[int, str, float]] = []
        self.status = "RUNNING"

    def _may_fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def create_run(self, *args: Any, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        if metrics:
            self._may_fail()
        self.metrics += [(metric.step, metric.key, metric.value) for metric in metrics]

    def log_dict(self, *args: Any) -> None: ...

    def log_artifact(self, *args: Any) -> None:
        self._may_fail()

    def set_terminated(self, run_id: str, status: str) -> None:
        self.status = status


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Takes the place of MLflow; every row is sent at once, failures are retried at once."""
    store = Store()
    monkeypatch.setattr(tracking, "_connect", lambda params: (store, "0"))
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_FLUSHES", -1.0)
    monkeypatch.setattr(tracking, "SECONDS_AFTER_FAILURE", 0.0)
    return store


@pytest.fixture
def log_two_rows(root: Path, params: Params) -> Callable[[Store], None]:
    def work(store: Store, *failures: Exception) -> None:
        with open_state("s", "f") as state, open_run("s", on(params), state) as run:
            store.failures += failures
            run.log(4, {"loss": 0.5})
            run.log(8, {"loss": 0.25})

    return work


ROWS = [(4, "loss", 0.5), (8, "loss", 0.25)]


def test_rows_that_were_refused_are_sent_again(store: Store, log_two_rows, capsys) -> None:
    log_two_rows(store, ConnectionError("database is locked"))
    assert (store.metrics, store.status) == (ROWS, "FINISHED")
    assert "ConnectionError: database is locked" in capsys.readouterr().err


def test_failure_without_a_message_is_no_harm(store: Store, log_two_rows) -> None:
    log_two_rows(store, TimeoutError())
    assert store.metrics == ROWS


def test_end_of_a_run_is_sent_though_there_was_a_failure_just_before(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_AFTER_FAILURE", 60.0)
    log_two_rows(store, ConnectionError("database is locked"))
    assert (store.metrics, store.status) == (ROWS, "FINISHED")


def test_store_that_comes_up_later_gets_all_rows(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [ConnectionError("down")]

    def connect(params: Params) -> tuple[Store, str]:
        if answers:
            raise answers.pop()
        return store, "0"

    monkeypatch.setattr(tracking, "_connect", connect)
    log_two_rows(store)
    assert (store.metrics, store.status) == (ROWS, "FINISHED")


def test_machine_without_git_is_logged_too(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    log_two_rows(store)
    assert store.metrics == ROWS


def test_no_mlflow_when_params_say_so(store: Store, root: Path, params: Params) -> None:
    with open_state("s", "f") as state, open_run("s", on(params, mlflow=False), state) as run:
        run.log(4, {"loss": 0.5})
        run.summary({"loss": 0.5})
        run.artifact(root / "nothing.png")
    assert store.metrics == []
    assert store.status == "RUNNING"
    assert read_log(state.log) == [{"nimg": 4, "loss": 0.5}, {"summary": 0, "best/loss": 0.5}]
