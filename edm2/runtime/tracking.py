"""Logs of a run: a complete local JSONL file, and MLflow as a view of it.

Only rank 0 logs. What is for MLflow goes to the outbox of the run, which `edm2.runtime.delivery` delivers.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edm2.params import Params
from edm2.params.tracking_checks import VARIABLE
from edm2.runtime.delivery.courier import Courier
from edm2.runtime.delivery.destination import destination
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.distributed import is_main_process
from edm2.runtime.files import write_json
from edm2.runtime.log import Log
from edm2.runtime.state import State

MAX_PARAM_LENGTH = 500


class Run:
    """Where a stage logs: the local log and, if params ask for it, MLflow."""

    def __init__(self, log: Log, outbox: Outbox | None) -> None:
        self.local, self.outbox = log, outbox

    def log(self, step: int, metrics: Mapping[str, float], axis: str = "nimg") -> None:
        """Log one row at `step` of `axis`."""
        if is_main_process() and metrics:
            self.local.append(step, metrics, axis)
            if self.outbox is not None:
                self.outbox.add_metrics(step, metrics)

    def rollback(self, nimg: int) -> None:
        """Remove the local rows of later times: training continues from `nimg`."""
        if is_main_process():
            self.local.keep(lambda row: row.get("nimg", nimg) <= nimg)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics, by which runs are compared, as best/<name>."""
        self.log(0, {f"best/{key}": value for key, value in metrics.items()}, axis="summary")

    def log_resolved_config(self, values: Mapping[str, Any]) -> None:
        """Log to MLflow, beside the user's params, what the stage resolved them to."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add(params=_texts(values))

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run in MLflow."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add(tags={key: value})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file to MLflow. It is read later, so it must stay."""
        if is_main_process() and self.outbox is not None:
            self.outbox.add_artifact(path, folder)


@contextmanager
def open_run(name: str, params: Params, state: State, **tags: str) -> Iterator[Run]:
    """Log into `state`, and to MLflow if params ask for it; a resumed state resumes its MLflow run.

    The MLflow run ends as FINISHED, as KILLED after an interruption, or as FAILED after an error.
    """
    if not (is_main_process() and params.tracking.mlflow):
        yield Run(Log(state.log), None)
        return
    outbox = _open_outbox(name, params, state, tags)
    goal = destination(params)
    courier = Courier(outbox, goal.name)
    if goal.from_environment:
        print(f"{name}: MLflow logs to {goal.name} ({VARIABLE}).", file=sys.stderr)
    status = "FINISHED"
    try:
        yield Run(Log(state.log), outbox)
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        outbox.add_status(status)
        courier.close()


def _open_outbox(name: str, params: Params, state: State, tags: Mapping[str, str]) -> Outbox:
    """The outbox of the run, which has its params already if the run is resumed."""
    goal, tree = destination(params), params.model_dump(mode="json")
    outbox = Outbox(state.folder)
    is_new = not outbox.size
    tracking = {"uri": goal.kept, "experiment": goal.experiment}
    outbox.open({"name": name, "tags": _tags(params, tags), "tracking": tracking})
    outbox.add_status("RUNNING")
    if is_new:
        write_json(state.folder / "params.json", tree)
        outbox.add(params=_texts(tree))
        outbox.add_artifact(state.folder / "params.json")
    return outbox


def _tags(params: Params, tags: Mapping[str, str]) -> dict[str, str]:
    size = params.diffusion.size
    return {
        **tags,
        "size": f"{params.diffusion.channels} channels" if size is None else size,
        "dvc_exp": os.environ.get("DVC_EXP_NAME", ""),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str:
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:  # git is not installed
        return ""
    return result.stdout.strip()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _texts(tree: Mapping[str, Any]) -> dict[str, str]:
    """All values by key path, cut to MLflow's length."""
    return {key: str(value)[:MAX_PARAM_LENGTH] for key, value in flatten(tree).items()}
