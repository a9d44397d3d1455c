"""Rows reach the local log, and the outbox if MLflow is on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edm2.params import Params
from edm2.runtime import tracking
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.interruption import Interrupted
from edm2.runtime.log import Log, read_log
from edm2.runtime.state import open_state
from edm2.runtime.tracking import Run, RunDescription, flatten, mlflow_name, open_run

DATASET = {"name": "digits train", "digest": "8e13"}
DESCRIPTION = RunDescription(
    tags={"stage": "s", "config": "G"}, values={"ema": {"path": None}}, datasets=[DATASET]
)


class Courier:
    """Delivers nothing."""

    def __init__(self, outbox: Outbox, store: str) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def run_once(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dict[str, Any]]]:
    """run_once(body, **tracking): the entries for MLflow of a run that logs what `body(run)` does."""
    monkeypatch.setattr(tracking, "Courier", Courier)

    def run(body: Callable[[Run], None], **section: Any) -> list[dict[str, Any]]:
        section = {"mlflow": True, "uri": None, **section}
        changed = params.model_copy(
            update={"tracking": params.tracking.model_copy(update=section), "seeds": (7,)}
        )
        with open_state("s", "f") as state:
            with open_run("s G", changed, state, lambda: DESCRIPTION) as opened:
                body(opened)
            return [entry for entry, _ in Outbox(state.folder).entries()]

    return run


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
    Run(Log(tmp_path / "log"), Outbox(tmp_path)).log(4, {"loss": 0.5})
    Run(Log(tmp_path / "log"), None).rollback(0)
    assert not list(tmp_path.iterdir())


def test_flatten_joins_key_paths() -> None:
    tree = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}
    assert flatten(tree) == {"a.b.c": 1, "a.d": [1, 2], "e": None}


def test_details_of_a_training_are_sorted_behind_its_loss_in_mlflow() -> None:
    logged = ["activations_max/enc-4x4", "gradient/pooled", "train/loss", "weighted_mse/sigma_3"]
    assert sorted(map(mlflow_name, logged)) == [
        "train/loss",
        "unet/activations_max/enc-4x4",
        "vae/gradient/pooled",
        "weighted_mse/sigma_3",
    ]


def test_values_go_to_the_log_and_to_the_outbox(run_once, root: Path) -> None:
    def body(run: Run) -> None:
        run.log(4, {"loss": math.inf})
        run.log_summary({"psnr": 31.5})
        run.log_artifact(root / ".state/s/f/results/a.png", "figures")
        run.log_resolved_config({"resolved": {"weight_norm": "forced"}})

    entries = run_once(body)
    assert read_log(root / ".state/s/f/log.jsonl") == [
        {"nimg": 4, "loss": "inf"},
        {"summary": 0, "best/psnr": 31.5},
    ]
    metrics = [(entry["step"], entry["metrics"]) for entry in entries if "metrics" in entry]
    assert metrics == [(4, {"loss": math.inf}), (0, {"best/psnr": 31.5})]
    params = [entry["params"] for entry in entries if "params" in entry]
    assert params == [{"ema.path": "None"}, {"resolved.weight_norm": "forced"}]
    artifacts = [(e["artifact"], e["folder"]) for e in entries if "artifact" in e]
    assert artifacts == [("params.json", ""), ("results/a.png", "figures")]
    assert [e["status"] for e in entries if "status" in e] == ["RUNNING", "FINISHED"]


def test_a_resumed_run_adds_to_its_outbox(run_once) -> None:
    run_once(lambda run: run.log(4, {"loss": 0.5}))
    entries = run_once(lambda run: run.log(8, {"loss": 0.25}))
    assert [entry["step"] for entry in entries if "metrics" in entry] == [4, 8]
    assert len([entry for entry in entries if "params" in entry]) == 1
    assert [entry["datasets"] for entry in entries if "datasets" in entry] == [[DATASET]]
    statuses = [entry["status"] for entry in entries if "status" in entry]
    assert statuses == ["RUNNING", "FINISHED", "RUNNING", "FINISHED"]


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(15), "KILLED"), (ZeroDivisionError(), "FAILED")]
)
def test_the_status_shows_how_a_run_ended(
    run_once, root: Path, error: BaseException, status: str
) -> None:
    def body(run: Run) -> None:
        raise error

    with pytest.raises(type(error)):
        run_once(body)
    *_, (last, _) = Outbox(root / ".state/s/f").entries()
    assert last["status"] == status


def test_the_description_identifies_the_run(run_once, root: Path) -> None:
    run_once(lambda run: None, experiment="tests")
    description = json.loads((root / ".state/s/f/run.json").read_text())
    assert description["name"] == "s G"
    assert description["tracking"] == {"uri": None, "experiment": "tests"}
    assert description["tags"] == DESCRIPTION.tags


def test_the_environment_names_the_store_if_params_do_not(
    run_once, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@example.org:5000")
    run_once(lambda run: None)
    error = capsys.readouterr().err
    assert "http://user:***@example.org:5000 (MLFLOW_TRACKING_URI)" in error
    kept = (root / ".state/s/f/run.json").read_text()
    assert "http://user:***@example.org:5000" in kept
    assert "secret" not in error + kept
    run_once(lambda run: None, uri="sqlite:///my.db")
    assert "MLFLOW_TRACKING_URI" not in capsys.readouterr().err
    assert '"sqlite:///my.db"' in (root / ".state/s/f/run.json").read_text()


def test_nothing_is_for_mlflow_if_params_say_so(run_once, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="outbox"):
        run_once(lambda run: run.log(4, {"loss": 0.5}), mlflow=False)
    assert read_log(root / ".state/s/f/log.jsonl") == [{"nimg": 4, "loss": 0.5}]
