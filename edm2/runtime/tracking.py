"""Logs of a run: a local JSONL file is the truth, MLflow is the view.

Only rank 0 logs. MLflow gets batches; a store that cannot be reached costs a warning and is tried
again later, never the run.
"""

import fcntl
import logging
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
from edm2.runtime.interruption import Interrupted
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
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # which pages it shows
LONGEST_PARAM = 500
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # MLflow's limits


class Run:
    """Where a stage logs: the local log and, if params ask for it, the view."""

    def __init__(self, log: Log, view: "MlflowView | None") -> None:
        self.rows = log
        self.view = view

    def log(self, step: int, metrics: Mapping[str, float], axis: str = "nimg") -> None:
        """Log one row at `step` of `axis`."""
        if is_main_process() and metrics:
            self.rows.append(step, metrics, axis)
            if self.view is not None:
                self.view.log(step, metrics)

    def rollback(self, nimg: int) -> None:
        """Forget rows of later times: training goes on from `nimg`."""
        if is_main_process():
            self.rows.keep(lambda row: row.get("nimg", nimg) <= nimg)

    def summary(self, metrics: Mapping[str, float]) -> None:
        """What the run is compared by: best/<name>, outside of time."""
        self.log(0, {f"best/{key}": value for key, value in metrics.items()}, axis="summary")

    def log_resolved_config(self, values: Mapping[str, Any]) -> None:
        """Params of the view beside the user's own: what a stage made of them."""
        if is_main_process() and self.view is not None:
            self.view.params(values)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file to the view."""
        if is_main_process() and self.view is not None:
            self.view.artifact(path, folder)


@contextmanager
def open_run(name: str, params: Params, state: State, **tags: str) -> Iterator[Run]:
    """Log into `state`, and to MLflow if params ask for it; a resumed state resumes its run."""
    view = None
    if is_main_process():
        facts = {"name": name, "tags": tags, "params": params.model_dump(mode="json")}
        write_json(state.folder / "run.json", facts)
    if is_main_process() and params.tracking.mlflow:
        view = MlflowView(name, params, state, tags)
    status = "FAILED"
    try:
        yield Run(Log(state.log), view)
        status = "FINISHED"
    except BaseException as error:
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        status = "KILLED" if stopped else status
        raise
    finally:
        if view is not None:
            view.close(status)


class MlflowView:
    """One MLflow run; every call may fail without harm."""

    def __init__(self, name: str, params: Params, state: State, tags: Mapping[str, str]) -> None:
        self.opening = partial(self._open, name, params, state, tags)
        self.pending: list[tuple[int, float, dict[str, float]]] = []
        self.files: list[tuple[Path, str]] = []
        self.settled: dict[str, Any] = {}
        self.last_flush = time.monotonic()
        self.retry_at = 0.0
        self.warned = False
        self.client: Any = None
        self.run_id = ""
        self._attempt(lambda: None)

    def log(self, nimg: int, metrics: Mapping[str, float]) -> None:
        self.pending.append((nimg, time.time(), dict(metrics)))
        if time.monotonic() - self.last_flush > SECONDS_BETWEEN_FLUSHES:
            self._attempt(self._flush)

    def params(self, values: Mapping[str, Any]) -> None:
        self.settled |= values
        self._attempt(self._flush)

    def artifact(self, path: Path, folder: str) -> None:
        self.files.append((path, folder))
        self._attempt(self._flush)

    def close(self, status: str) -> None:
        self.retry_at = 0.0  # the last chance
        self._attempt(self._flush)
        self._attempt(lambda: self.client.set_terminated(self.run_id, status))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Open the run if it is not yet, then act; after a failure, wait before the next attempt."""
        if time.monotonic() < self.retry_at:
            return
        try:
            if self.client is None:
                self.opening()
            action()
        except Exception as error:  # whatever MLflow raises, the run goes on
            self.retry_at = time.monotonic() + SECONDS_AFTER_FAILURE
            why = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
            if self.warned:
                return
            self.warned = True
            print(
                f"warning: MLflow cannot be reached ({why}); the local log has everything.",
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
            _log_params(client, run_id, tree)
            client.log_dict(run_id, tree, "params.json")
        self.client, self.run_id = client, run_id

    def _flush(self) -> None:
        from mlflow.entities import Metric

        rows = [
            Metric(key, value, int(seconds * 1000), nimg)
            for nimg, seconds, metrics in self.pending
            for key, value in metrics.items()
        ]
        for start in range(0, len(rows), METRICS_AT_ONCE):
            batch = rows[start : start + METRICS_AT_ONCE]
            self.client.log_batch(self.run_id, metrics=batch)
        self.pending = []
        _log_params(self.client, self.run_id, self.settled)
        self.settled = {}
        while self.files:
            path, folder = self.files[0]
            self.client.log_artifact(self.run_id, str(path), folder or None)
            self.files.pop(0)
        self.last_flush = time.monotonic()


def _set_running(client: Any, run_id: str) -> bool:
    """Continue a run; False where the store does not know it (any more)."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _connect(params: Params) -> tuple[Any, str]:
    """A client and the id of the experiment; made under a lock, as two makers would collide."""
    for key, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    home = project_root() / ".mlflow"
    uri, name = params.tracking.uri, params.tracking.experiment
    local = uri is None
    with _exclusive(home / "lock"), _quiet():
        client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}" if local else uri)
        found = client.get_experiment_by_name(name)
        if found is not None:
            return client, found.experiment_id
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
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:  # no git on this machine
        return ""
    return found.stdout.strip()


def _log_params(client: Any, run_id: str, tree: Mapping[str, Any]) -> None:
    """All values, flat; long ones are cut."""
    from mlflow.entities import Param

    flat = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flatten(tree).items()]
    for start in range(0, len(flat), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=flat[start : start + PARAMS_AT_ONCE])


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
    """Store migrations talk a lot and reconfigure the root logger: undo both."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
