"""What MLflow's pages show of an experiment: its description and saved views, which are tags of it.

The pages of MLflow 3.17 read a saved view from the tag `mlflow.sharedViewState.<id>`; it is in the menu
Views, and opens with `?viewStateShareKey=<id>`. Without one they choose columns and charts themselves. They
show children flat unless runs are sorted by time.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

NOTE_TAG = "mlflow.note.content"
VIEW_TAG = "mlflow.sharedViewState."
VERSION_TAG = "edm2.views"  # so that a view that a user changes or deletes stays so
PIPELINES, TRAININGS, EVALUATIONS = "edm2-pipelines", "edm2-trainings", "edm2-evaluations"
LOSSES = ("train/loss", "train/weighted_mse", "train/mse", "train/lr")
MAX_CHARTS, MAX_COLUMNS = 4, 9  # a tag has at most 5000 characters; the pages add further charts
SECTIONS = ("train", "weighted_mse", "ema_curve", "best")
TIME, NAME = "attributes.start_time", "tags.`mlflow.runName`"
NOTE = "Pipeline runs; the plus shows their stages. **Views** has columns and charts of each kind."


def experiment_tags(values: Sequence[str]) -> dict[str, str]:
    """The tags of an experiment.

    Args:
        values: metrics of pipeline runs by which they are compared.
    """
    values = sorted(values, key=lambda name: name.endswith("ema_length"))
    views = {
        PIPELINES: _view("Pipeline runs", "pipeline", ["config", "dataset"], values, TIME),
        TRAININGS: _view("Trainings", "train_diffusion", ["config", "seed"], LOSSES, NAME),
        EVALUATIONS: _view("Evaluations", "fid", ["config", "seed"], values, NAME),
    }
    tags = {NOTE_TAG: NOTE, **{VIEW_TAG + name: view for name, view in views.items()}}
    version = sha256(json.dumps(tags).encode()).hexdigest()[:16]
    return {**tags, VERSION_TAG: version}


def _view(
    name: str, stage: str, tags: Sequence[str], metrics: Sequence[str], sorted_by: str
) -> str:
    """A saved view of the runs of a stage: a filter, columns, and charts."""
    columns = [
        *(f"tags.`{tag}`" for tag in ("experiment", *tags)),
        *(f"metrics.`{metric}`" for metric in metrics[:MAX_COLUMNS]),
    ]
    charts = [_chart(metric, position) for position, metric in enumerate(metrics[:MAX_CHARTS])]
    state: dict[str, Any] = {
        "searchFilter": f'tags.stage = "{stage}"',
        "orderByKey": sorted_by,
        "orderByAsc": sorted_by == NAME,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, 140),
        "compareRunCharts": charts,
        "compareRunSections": [_section(name) for name in SECTIONS],
        "isAccordionReordered": True,
        "runsHiddenMode": "FIRST_20_RUNS",
    }
    envelope = {"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    return json.dumps(envelope)


def _section(name: str) -> dict[str, Any]:
    return {
        "uuid": f"edm2-{name}",
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": True,
    }


def _chart(metric: str, position: int) -> dict[str, Any]:
    """A card of a metric: a line over images seen for what trainings log, a bar for a single value."""
    section, _, name = metric.rpartition("/")
    is_line = section == "train"
    card = {
        "type": "LINE" if is_line else "BAR",
        "uuid": f"edm2-chart-{position}",
        "metricSectionId": f"edm2-{section}",
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": True,
        "metricKey": metric,
        "displayName": name,
    }
    line = {
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "range": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
    return card | line if is_line else card
