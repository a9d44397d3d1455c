"""Saved views of MLflow's pages."""

import json
from types import SimpleNamespace

import pytest

from edm2.runtime.delivery.store import Store
from edm2.runtime.delivery.views import PIPELINES, TRAININGS, VERSION_TAG, VIEW_TAG, experiment_tags

VALUES = ["best/ema_length", "best/fd_classifier_1k"]


def state(tags: dict[str, str], view: str) -> dict:
    return json.loads(json.loads(tags[VIEW_TAG + view])["state"])


def test_trainings_open_on_the_loss() -> None:
    view = state(experiment_tags([]), TRAININGS)
    first = view["compareRunCharts"][0]
    assert (first["metricKey"], first["type"]) == ("train/loss", "LINE")
    assert first["metricSectionId"] == view["compareRunSections"][0]["uuid"]
    assert view["searchFilter"] == 'tags.stage = "train_diffusion"'
    # sorted by time, MLflow would hide children behind their parents
    assert view["orderByKey"] != "attributes.start_time"


def test_pipeline_runs_have_the_values_to_compare_as_columns() -> None:
    columns = state(experiment_tags(VALUES), PIPELINES)["selectedColumns"]
    assert columns[-2:] == ["metrics.`best/fd_classifier_1k`", "metrics.`best/ema_length`"]


@pytest.fixture
def store() -> Store:
    store = object.__new__(Store)
    store.experiment = "1"
    store.tags = {}  # type: ignore[attr-defined]
    store.client = SimpleNamespace(
        get_experiment=lambda _: SimpleNamespace(tags=store.tags),  # type: ignore[attr-defined]
        set_experiment_tag=lambda _, key, value: store.tags.update({key: value}),  # type: ignore[attr-defined]
    )
    return store


def test_what_a_user_changes_in_the_pages_stays(store) -> None:
    store.save_views()
    store.save_views(VALUES)
    assert store.tags == experiment_tags(VALUES)
    store.tags |= {VIEW_TAG + TRAININGS: "mine", "mlflow.note.content": "ours"}
    for values in ((), VALUES):
        store.save_views(values)
        assert store.tags[VIEW_TAG + TRAININGS] == "mine"
    store.save_views(["best/fd_dinov2_1k"])  # other values: the views are renewed, the note is not
    assert store.tags[VERSION_TAG] == experiment_tags(["best/fd_dinov2_1k"])[VERSION_TAG]
    assert store.tags["mlflow.note.content"] == "ours"
