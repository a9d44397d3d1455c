"""Runs in real MLflow stores: what they have, and what was deleted, moved or resumed."""

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from store_rows import DATASET, VALUES, losses, query

from edm2.params import Params
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.delivery.pipeline_run import PipelineRun
from edm2.runtime.delivery.views import experiment_tags
from edm2.runtime.interruption import Interrupted
from edm2.runtime.state import open_state
from edm2.runtime.tracking import NOTE, RunDescription, open_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("deliver_in_this_process")]


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
