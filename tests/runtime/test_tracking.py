"""Rows reach the local log, and MLflow unless it fails."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edm2.params import Params
from edm2.runtime import tracking
from edm2.runtime.interruption import Interrupted
from edm2.runtime.log import Log, read_log
from edm2.runtime.state import open_state
from edm2.runtime.tracking import Run, flatten, open_run


def with_mlflow(params: Params, **tracking: Any) -> Params:
    section = params.tracking.model_copy(update={"mlflow": True, **tracking})
    return params.model_copy(update={"tracking": section})


def test_rollback_removes_later_rows(tmp_path: Path) -> None:
    run = Run(Log(tmp_path / "log"), None)
    run.rollback(0)  # no rows yet
    for nimg in (4, 8, 12):
        run.log(nimg, {"loss": math.nan})
    with (tmp_path / "log").open("a") as file:
        file.write('{"nimg": 16, "los')
    run.rollback(8)
    run.log(12, {"loss": 2.0})
    run.log(16, {})
    assert read_log(tmp_path / "log") == [
        {"nimg": 4, "loss": "nan"},
        {"nimg": 8, "loss": "nan"},
        {"nimg": 12, "loss": 2.0},
    ]


def test_only_rank_0_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    Run(Log(tmp_path / "log"), None).log(4, {"loss": 0.5})
    Run(Log(tmp_path / "log"), None).rollback(0)
    assert not (tmp_path / "log").exists()


def test_flatten_joins_key_paths() -> None:
    tree = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}
    assert flatten(tree) == {"a.b.c": 1, "a.d": [1, 2], "e": None}


# MLflow, in SQLite


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, params: Params) -> SimpleNamespace:
    """A run in MLflow after its interruption (`killed`) and after its end (`finished`), and a failed one."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("project")
    (root / "elsewhere").mkdir()
    (root / "figure.png").write_bytes(b"picture")
    params = with_mlflow(params, uri=None, experiment="tests").model_copy(update={"seed": 7})
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
                run.log_summary({"psnr": 31.5})
                run.log_artifact(root / "figure.png", "figures")
        with open_state("train_vae", "failing") as state:
            with pytest.raises(ZeroDivisionError), open_run("failing", params, state):
                raise ZeroDivisionError
            failed = client.get_run(state.read_notes()["mlflow_run"])
    return SimpleNamespace(
        root=root,
        params=params,
        client=client,
        run_id=run_id,
        killed=killed,
        running=running,
        finished=client.get_run(run_id),
        failed=failed,
    )


def test_the_store_is_below_the_project_root(mlflow: SimpleNamespace) -> None:
    assert (mlflow.root / ".mlflow" / "mlflow.db").exists()
    assert not list((mlflow.root / "elsewhere").iterdir())
    experiment = mlflow.client.get_experiment_by_name("tests")
    assert experiment.artifact_location == f"file://{mlflow.root}/.mlflow/artifacts/tests"


def test_a_resumed_state_continues_its_run(mlflow: SimpleNamespace) -> None:
    history = mlflow.client.get_metric_history(mlflow.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(4, 0.5), (8, 0.25)]


def test_the_status_shows_how_a_run_ended(mlflow: SimpleNamespace) -> None:
    assert (mlflow.killed.info.status, mlflow.running) == ("KILLED", "RUNNING")
    assert (mlflow.finished.info.status, mlflow.failed.info.status) == ("FINISHED", "FAILED")


def test_a_run_deleted_in_mlflow_is_replaced(
    mlflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(mlflow.root))
    with open_state("train_vae", "deleted") as state:
        with open_run("deleted", mlflow.params, state):
            deleted = state.read_notes()["mlflow_run"]
        mlflow.client.delete_run(deleted)
        with open_run("deleted", mlflow.params, state) as run:
            run.log(4, {"loss": 0.5})
        new = state.read_notes()["mlflow_run"]
    assert new != deleted
    assert mlflow.client.get_run(new).data.metrics == {"loss": 0.5}
    assert "warning" not in capsys.readouterr().err


def test_rows_sent_twice_are_one_row_to_mlflow(mlflow: SimpleNamespace) -> None:
    """Its answer may be lost after it has taken a batch."""
    from mlflow.entities import Metric

    row = Metric("sent twice", 0.5, 1000, 4)
    for _ in range(2):
        mlflow.client.log_batch(mlflow.run_id, metrics=[row])
    assert len(mlflow.client.get_metric_history(mlflow.run_id, "sent twice")) == 1


def test_params_are_complete_and_flat(mlflow: SimpleNamespace) -> None:
    params = mlflow.finished.data.params
    assert params["seed"] == "7"
    assert params["vae.losses.kl"] == str(mlflow.params.vae.losses.kl)
    assert params["diffusion.size"] == "None"
    assert params["resolved.weight_norm"] == "forced"  # from the stage
    artifacts = mlflow.client.list_artifacts(mlflow.run_id)
    assert {file.path for file in artifacts} == {"params.json", "figures"}
    text = next((mlflow.root / ".mlflow" / "artifacts").rglob("params.json")).read_text()
    assert json.loads(text) == mlflow.params.model_dump(mode="json")


def test_tags_identify_the_run(mlflow: SimpleNamespace) -> None:
    tags = mlflow.finished.data.tags
    expected = {"stage": "train_vae", "config": "G", "seed": "7", "dvc_exp": "tidal-axon"}
    assert {key: tags[key] for key in expected} == expected
    assert tags["mlflow.runName"] == "vae G"
    assert "git_commit" in tags


def test_summary_and_artifacts_reach_mlflow(mlflow: SimpleNamespace) -> None:
    metrics = mlflow.finished.data.metrics
    assert metrics["best/psnr"] == 31.5
    assert math.isnan(metrics["held_out/psnr"])  # SQL stores have no ∞
    picture = next((mlflow.root / ".mlflow" / "artifacts").rglob("figures/figure.png"))
    assert picture.read_bytes() == b"picture"


# Failures of MLflow


def test_an_unreachable_store_gives_one_warning(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    params = with_mlflow(params, uri="http://127.0.0.1:9")
    with open_state("s", "f") as state, open_run("s", params, state) as run:
        run.log(4, {"loss": 0.5})
        run.log_summary({"loss": 0.5})
        run.log_artifact(root / "nothing.png")
    assert read_log(state.log) == [{"nimg": 4, "loss": 0.5}, {"summary": 0, "best/loss": 0.5}]
    warning = capsys.readouterr().err
    assert warning.count("MLflow") == 1
    assert "local log" in warning


class Store:
    """An MLflow client whose next calls end as `failures` says; records what it accepts."""

    def __init__(self) -> None:
        self.failures: list[Exception | None] = []  # None: a call that succeeds
        self.metrics: list[tuple[int, str, float]] = []
        self.params: list[tuple[str, str]] = []
        self.tags: dict[str, str] = {}
        self.artifacts: list[str] = []
        self.status = "RUNNING"

    def _may_fail(self) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def create_run(self, *args: Any, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def update_run(self, run_id: str, status: str) -> None:
        self.status = status

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self._may_fail()
        self.metrics += [(metric.step, metric.key, metric.value) for metric in metrics]
        self.params += [(param.key, param.value) for param in params]

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._may_fail()
        self.tags[key] = value

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self._may_fail()
        self.artifacts.append(Path(path).name)

    def set_terminated(self, run_id: str, status: str) -> None:
        self._may_fail()
        self.status = status


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Replaces MLflow; every row is sent immediately, after a failure too."""
    store = Store()
    monkeypatch.setattr(tracking, "_connect", lambda params: (store, "0"))
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_FLUSHES", -1.0)
    monkeypatch.setattr(tracking, "SECONDS_AFTER_FAILURE", 0.0)
    return store


@pytest.fixture
def log_two_rows(root: Path, params: Params) -> Callable[..., None]:
    """log_two_rows(store, failures...), which the store raises once the run is open."""

    def log(store: Store, *failures: Exception | None) -> None:
        with open_state("s", "f") as state, open_run("s", with_mlflow(params), state) as run:
            store.failures += failures
            run.log(4, {"loss": 0.5})
            run.log(8, {"loss": 0.25})

    return log


ROWS = [(4, "loss", 0.5), (8, "loss", 0.25)]
DOWN = ConnectionError("database is locked")


def test_rows_are_sent_again_after_a_failure(store: Store, log_two_rows, capsys) -> None:
    log_two_rows(store, DOWN)
    assert (store.metrics, store.status) == (ROWS, "FINISHED")
    assert "ConnectionError: database is locked" in capsys.readouterr().err


@pytest.mark.parametrize("number", range(9))
def test_everything_is_sent_once_whichever_call_fails(
    root: Path, params: Params, store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Two batches of metrics, two and one of params, a tag, three artifacts; then the end of the run."""
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_FLUSHES", 1e9)
    monkeypatch.setattr(tracking, "METRICS_PER_BATCH", 3)
    metrics = {f"m{k}": float(k) for k in range(5)}
    store.failures += [*[None] * number, DOWN]
    with open_state("s", "f") as state, open_run("s", with_mlflow(params), state) as run:
        run.log(4, metrics)
        run.log_resolved_config({"resolved": {"weight_norm": "forced"}})
        run.set_tag("nonfinite", "since 4 images")
        run.log_artifact(root / "a.png")
        run.log_artifact(root / "b.png")
    assert store.failures == []
    assert store.metrics == [(4, key, value) for key, value in metrics.items()]
    expected = flatten(params.model_dump(mode="json")) | {"resolved.weight_norm": "forced"}
    assert sorted(key for key, _ in store.params) == sorted(expected)
    assert store.tags == {"nonfinite": "since 4 images"}
    assert store.artifacts == ["params.json", "a.png", "b.png"]
    assert store.status == "FINISHED"


def test_a_failure_without_a_message_is_handled_too(store: Store, log_two_rows) -> None:
    log_two_rows(store, TimeoutError())
    assert store.metrics == ROWS


def test_the_end_of_a_run_is_sent_even_right_after_a_failure(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_AFTER_FAILURE", 60.0)
    log_two_rows(store, DOWN)
    assert (store.metrics, store.status) == (ROWS, "FINISHED")


def test_the_status_is_sent_even_if_the_last_rows_are_refused(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_AFTER_FAILURE", 60.0)
    log_two_rows(store, DOWN, DOWN)
    assert (store.metrics, store.status) == ([], "FINISHED")


def test_a_store_that_is_started_later_gets_all_rows(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [DOWN]

    def connect(params: Params) -> tuple[Store, str]:
        if failures:
            raise failures.pop()
        return store, "0"

    monkeypatch.setattr(tracking, "_connect", connect)
    log_two_rows(store)
    assert (store.metrics, store.status) == (ROWS, "FINISHED")


def test_logging_works_without_git(
    store: Store, log_two_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    log_two_rows(store)
    assert store.metrics == ROWS


def test_mlflow_gets_nothing_if_params_say_so(store: Store, root: Path, params: Params) -> None:
    with (
        open_state("s", "f") as state,
        open_run("s", with_mlflow(params, mlflow=False), state) as run,
    ):
        run.log(4, {"loss": 0.5})
        run.log_summary({"loss": 0.5})
        run.log_artifact(root / "nothing.png")
    assert store.metrics == []
    assert store.status == "RUNNING"
    assert read_log(state.log) == [{"nimg": 4, "loss": 0.5}, {"summary": 0, "best/loss": 0.5}]
