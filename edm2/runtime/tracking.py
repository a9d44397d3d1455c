"""Logs of a run: a complete local JSONL file, and MLflow as a view of it.

Only rank 0 logs. MLflow gets batches. If it fails, a warning says so and the batch is sent again later;
the run goes on.
"""

import fcntl
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from edm2.params import Params
from edm2.params.checks import project_root
from edm2.runtime.distributed import is_main_process
from edm2.runtime.files import write_json
from edm2.runtime.log import Log
from edm2.runtime.state import State

SECONDS_BETWEEN_FLUSHES = 10.0
SECONDS_AFTER_FAILURE = 60.0
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # selects its pages
MAX_PARAM_LENGTH = 500
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # MLflow's limits


class Run:
    """Where a stage logs: the local log and, if params ask for it, MLflow."""

    def __init__(self, log: Log, mlflow: "MlflowLogger | None") -> None:
        self.local, self.mlflow = log, mlflow

    def log(self, step: int, metrics: Mapping[str, float], axis: str = "nimg") -> None:
        """Log one row at `step` of `axis`."""
        if is_main_process() and metrics:
            self.local.append(step, metrics, axis)
            if self.mlflow is not None:
                self.mlflow.log_metrics(step, metrics)

    def rollback(self, nimg: int) -> None:
        """Remove the local rows of later times: training continues from `nimg`."""
        if is_main_process():
            self.local.keep(lambda row: row.get("nimg", nimg) <= nimg)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics, by which runs are compared, as best/<name>."""
        self.log(0, {f"best/{key}": value for key, value in metrics.items()}, axis="summary")

    def log_resolved_config(self, values: Mapping[str, Any]) -> None:
        """Log to MLflow, beside the user's params, what the stage resolved them to."""
        if is_main_process() and self.mlflow is not None:
            self.mlflow.log_params(values)

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run in MLflow."""
        if is_main_process() and self.mlflow is not None:
            self.mlflow.set_tag(key, value)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file to MLflow."""
        if is_main_process() and self.mlflow is not None:
            self.mlflow.log_artifact(path, folder)


@contextmanager
def open_run(name: str, params: Params, state: State, **tags: str) -> Iterator[Run]:
    """Log into `state`, and to MLflow if params ask for it; a resumed state resumes its MLflow run.

    The MLflow run ends as FINISHED, as KILLED after an interruption, or as FAILED after an error.
    """
    mlflow = None
    if is_main_process():
        metadata = {"name": name, "tags": tags, "params": params.model_dump(mode="json")}
        write_json(state.folder / "run.json", metadata)
    if is_main_process() and params.tracking.mlflow:
        mlflow = MlflowLogger(name, params, state, tags)
    status = "FINISHED"
    try:
        yield Run(Log(state.log), mlflow)
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        if mlflow is not None:
            mlflow.close(status)


class MlflowLogger:
    """One MLflow run. What MLflow has not taken yet waits in queues; no method raises its errors.

    Each batch leaves its queue once it is sent, so that an error sends nothing twice. If only MLflow's
    answer is lost, a batch is sent again with the same timestamps, and SQL stores drop its rows.
    """

    def __init__(self, name: str, params: Params, state: State, tags: Mapping[str, str]) -> None:
        self.open = partial(self._open, name, params, state, tags)
        self.metrics: list[tuple[str, float, int, int]] = []  # key, value, time in ms, step
        self.params: list[tuple[str, str]] = []
        self.tags: list[tuple[str, str]] = []
        self.artifacts: list[tuple[Path, str]] = []
        self.last_flush = time.monotonic()
        self.retry_at = 0.0
        self.warned = False
        self.client: Any = None
        self.run_id = ""
        self._attempt(self._flush)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one row. Infinities become NaN, because SQL stores would turn them into large numbers."""
        now = int(time.time() * 1000)
        finite = {key: v if math.isfinite(v) else math.nan for key, v in metrics.items()}
        self.metrics += [(key, value, now, step) for key, value in finite.items()]
        if time.monotonic() - self.last_flush > SECONDS_BETWEEN_FLUSHES:
            self._attempt(self._flush)

    def log_params(self, tree: Mapping[str, Any]) -> None:
        """Log all values by key path, cut to MLflow's length."""
        self._queue_params(tree)
        self._attempt(self._flush)

    def set_tag(self, key: str, value: str) -> None:
        self.tags.append((key, value))
        self._attempt(self._flush)

    def log_artifact(self, path: Path, folder: str) -> None:
        self.artifacts.append((path, folder))
        self._attempt(self._flush)

    def close(self, status: str) -> None:
        """Send everything that waits, and the status, even if an attempt has just failed."""
        self._attempt(self._flush, now=True)
        if self.client is not None:
            self._attempt(lambda: self.client.set_terminated(self.run_id, status), now=True)

    def _attempt(self, action: Callable[[], None], now: bool = False) -> None:
        """Open the run if it is not open, then act. After an error, skip attempts for a while.

        Args:
            now: whether not to skip this one.
        """
        if time.monotonic() < self.retry_at and not now:
            return
        try:
            if self.client is None:
                self.open()
            action()
        except Exception as error:  # the run goes on whatever MLflow raises
            self.retry_at = time.monotonic() + SECONDS_AFTER_FAILURE
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
            if self.warned:
                return
            self.warned = True
            print(
                f"warning: logging to MLflow failed ({reason}). It is tried again later; the local log "
                "is complete.",
                file=sys.stderr,
            )

    def _open(self, name: str, params: Params, state: State, tags: Mapping[str, str]) -> None:
        client, experiment = _connect(params)
        run_id = state.read_notes().get("mlflow_run")
        if run_id is None or not _set_running(client, run_id):
            run = client.create_run(experiment, run_name=name, tags=_tags(params, tags))
            run_id = run.info.run_id
            state.note(mlflow_run=run_id)
            tree = params.model_dump(mode="json")
            self._queue_params(tree)
            write_json(state.folder / "params.json", tree)
            self.artifacts.append((state.folder / "params.json", ""))
        self.client, self.run_id = client, run_id

    def _queue_params(self, tree: Mapping[str, Any]) -> None:
        self.params += [(key, str(v)[:MAX_PARAM_LENGTH]) for key, v in flatten(tree).items()]

    def _flush(self) -> None:
        from mlflow.entities import Metric, Param

        while self.metrics:
            metrics = [Metric(*row) for row in self.metrics[:METRICS_PER_BATCH]]
            self.client.log_batch(self.run_id, metrics=metrics)
            del self.metrics[: len(metrics)]
        while self.params:
            params = [Param(*item) for item in self.params[:PARAMS_PER_BATCH]]
            self.client.log_batch(self.run_id, params=params)
            del self.params[: len(params)]
        while self.tags:
            self.client.set_tag(self.run_id, *self.tags[0])
            del self.tags[0]
        while self.artifacts:
            path, folder = self.artifacts[0]
            self.client.log_artifact(self.run_id, str(path), folder or None)
            del self.artifacts[0]
        self.last_flush = time.monotonic()


def _set_running(client: Any, run_id: str) -> bool:
    """Continue a run. False if the store does not have it, or if it was deleted there."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return False
    return True


def _connect(params: Params) -> tuple[Any, str]:
    """A client and the id of the experiment, under a lock: two processes cannot create a store at once."""
    for key, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    home = project_root() / ".mlflow"
    uri, name = params.tracking.uri, params.tracking.experiment
    local = uri is None
    with _exclusive(home / "lock"), _quiet():
        client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}" if local else uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return client, experiment.experiment_id
        artifacts = (home / "artifacts" / name).as_uri() if local else None
        return client, client.create_experiment(name, artifacts, EXPERIMENT_TAGS)


def _tags(params: Params, tags: Mapping[str, str]) -> dict[str, str]:
    size = params.diffusion.size
    return {
        **tags,
        "size": f"{params.diffusion.channels} channels" if size is None else size,
        "seed": str(params.seed),
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


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the migrations of the store, and undo their changes of the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
