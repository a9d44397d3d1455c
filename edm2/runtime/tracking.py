"""Logs of a run: a complete local JSONL file, and MLflow as a view of it.

Only rank 0 logs. What is for MLflow goes to the outbox of the run, which `edm2.runtime.delivery` delivers.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edm2.params import Params
from edm2.params.tracking_checks import VARIABLE
from edm2.runtime.delivery.courier import Courier
from edm2.runtime.delivery.destination import destination
from edm2.runtime.delivery.models import Model
from edm2.runtime.delivery.outbox import Outbox, now
from edm2.runtime.delivery.pipeline_run import PipelineOutbox, PipelineRun, joined
from edm2.runtime.distributed import is_main_process, on_main_process
from edm2.runtime.files import write_json
from edm2.runtime.log import Log
from edm2.runtime.state import State

MAX_PARAM_LENGTH = 500
GROUPS = {  # in MLflow, whose pages sort charts by name: so that `train` comes first for a training
    ("activations_", "updates_", "weights_"): "unet",
    ("gradient/", "held_out/"): "vae",
}
NOTE = "mlflow.note.content"  # tag of the description on a run's page in MLflow


class Run:
    """Where a stage logs: the local log and, if params ask for it, MLflow."""

    def __init__(
        self, log: Log, outbox: Outbox | None, pipeline: PipelineOutbox | None = None
    ) -> None:
        self.local, self.outbox, self.pipeline = log, outbox, pipeline

    def log(self, step: int, metrics: Mapping[str, float], axis: str = "nimg") -> None:
        """Log one row at `step` of `axis`."""
        if is_main_process() and metrics:
            self.local.append(step, metrics, axis)
            if self.outbox is not None:
                self.outbox.add_metrics(step, {mlflow_name(k): v for k, v in metrics.items()})

    def rollback(self, nimg: int, last: str | None = None) -> None:
        """Remove the local rows of later times: training continues from `nimg`.

        Every rank must call this.

        Args:
            last: what `save_log` returned at that time, if it was called.

        Raises:
            UserError: rows until that time are missing.
        """

        def rollback() -> None:
            if last is not None:
                self.local.require(last)
            self.local.keep(lambda row: row.get("nimg", nimg) <= nimg)

        on_main_process(rollback)

    def save_log(self) -> str:
        """Wait until the local log is on the disk; returns what `rollback` compares.

        Every rank must call this.
        """
        return on_main_process(self.local.save)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics, by which runs are compared, as best/<name>."""
        self.log(0, {f"best/{key}": value for key, value in metrics.items()}, axis="summary")

    def log_resolved_config(self, values: Mapping[str, Any]) -> None:
        """Log to MLflow, beside the user's params, what the stage resolved them to."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add(params=texts(values))

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run in MLflow."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add(tags={key: value})

    def set_note(self, text: str) -> None:
        """Set the description on the run's page in MLflow."""
        self.set_tag(NOTE, text)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file to MLflow. It is read later, so it must stay."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add_artifact(path, folder)

    def log_model(self, model: Model, folder: Path) -> None:
        """Log a model to MLflow, with the files in `folder`. They are read later, so they must stay."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add_model(asdict(model), folder)

    def log_to_pipeline(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Log metrics and tags of the pipeline run, the parent of this run, to MLflow."""
        if is_main_process() and self.pipeline is not None:
            self.pipeline.add(metrics=dict(metrics), step=0, time=now())
            self.pipeline.add(tags=dict(tags))


@dataclass(frozen=True)
class RunDescription:
    """What a run is in MLflow.

    Attributes:
        tags: those by which it is found.
        values: the params that matter to it, by key path.
        pipeline: the pipeline run that is its parent, if it has one.
        datasets: what it reads, as in entries of its outbox.
    """

    tags: Mapping[str, str]
    values: Mapping[str, Any]
    pipeline: PipelineRun | None = None
    datasets: Sequence[Mapping[str, str]] = ()


@contextmanager
def open_run(
    name: str, params: Params, state: State, describe: Callable[[], RunDescription]
) -> Iterator[Run]:
    """Log into `state`, and to MLflow if params ask for it; a resumed state resumes its MLflow run.

    The MLflow run ends as FINISHED, as KILLED after an interruption, or as FAILED after an error.
    """
    if not (is_main_process() and params.tracking.mlflow):
        yield Run(Log(state.log), None)
        return
    goal, description, status = destination(params), describe(), "FINISHED"
    tracking = {"uri": goal.kept, "experiment": goal.experiment}
    about = {"name": name, "tags": description.tags, "tracking": tracking}
    with (
        ExitStack() as afterwards,
        joined(state.folder.parents[1], description.pipeline, tracking) as pipeline,
    ):
        if pipeline is not None:
            about["parent"] = pipeline.name
            pipeline.add_datasets(description.datasets)
        outbox = _open_outbox(about, description, params, state)
        afterwards.callback(Courier(outbox, goal.name).close)
        if goal.from_environment:
            print(f"{name}: MLflow logs to {goal.name} ({VARIABLE}).", file=sys.stderr)
        try:
            yield Run(Log(state.log), outbox, pipeline)
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            raise
        finally:
            outbox.add_status(status)


def _open_outbox(
    about: Mapping[str, Any], description: RunDescription, params: Params, state: State
) -> Outbox:
    """The outbox of the run, which has its params and datasets already if the run is resumed."""
    outbox = Outbox(state.folder)
    is_new = not outbox.size
    outbox.open(about)
    outbox.add_status("RUNNING")
    if is_new:
        write_json(state.folder / "params.json", params.model_dump(mode="json"))
        outbox.add(params=texts(description.values))
        outbox.add_datasets(description.datasets)
        outbox.add_artifact(state.folder / "params.json")
    return outbox


def mlflow_name(metric: str) -> str:
    """The name of a metric in MLflow: that of the local log, after a group for details of a training."""
    groups = [group for beginnings, group in GROUPS.items() if metric.startswith(beginnings)]
    return "/".join([*groups, metric])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def texts(tree: Mapping[str, Any]) -> dict[str, str]:
    """All values by key path, cut to MLflow's length."""
    return {key: str(value)[:MAX_PARAM_LENGTH] for key, value in flatten(tree).items()}
