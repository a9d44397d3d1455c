"""An MLflow store: its experiment, its runs, and what was deleted in MLflow's pages."""

import importlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edm2.params.tracking_checks import SQLITE, sqlite_path
from edm2.runtime.delivery.deadline import MIN_BYTES_PER_SECOND
from edm2.runtime.delivery.sqlite import SqliteStore
from edm2.runtime.delivery.views import NOTE_TAG, VERSION_TAG, experiment_tags
from edm2.runtime.files import link

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    TIMEOUT: "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # which may be hours
    "MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH": "20000",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # selects its pages
BATCHES = {"metrics": 1000, "params": 100, "tags": 100, "datasets": 100}  # MLflow takes as many
RUN_TAG = "edm2.run"
PARENT_TAG = "mlflow.parentRunId"
REFUSALS = ("INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")  # the latter: of older servers
Say = Callable[[str], None]


class Store:
    """A connection to a store.

    Args:
        uri: relative paths start from `root`; None: the store of the project.
        root: root of the project.
        say: takes lines for the user.

    Raises:
        Exception: whatever MLflow raises if the store cannot be used.
    """

    def __init__(self, uri: str | None, experiment: str, root: Path, say: Say) -> None:
        import_mlflow()
        from mlflow import MlflowClient

        with _quiet():
            self.say, self.name = say, experiment
            self.sqlite = _sqlite(uri, root, say)
            self.folder = None if self.sqlite is None else _artifacts(self.sqlite.path, experiment)
            self.client: Any = MlflowClient(uri if self.sqlite is None else self.sqlite.uri)
            self.experiment = ""  # its id, once it is open

    @property
    def is_in_place(self) -> bool:
        return self.sqlite is None or self.sqlite.is_in_place

    def session(self) -> Any:
        """Calls of MLflow are within this block."""
        return nullcontext() if self.sqlite is None else self.sqlite.session()

    def open_experiment(self) -> None:
        """Find, restore or create the experiment."""
        location = None if self.folder is None else _uri(self.folder)
        experiment = self.client.get_experiment_by_name(self.name) or self._create(location)
        self.experiment = _named(experiment.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(self.experiment)
            self.say(f"MLflow: the experiment {self.name} had been deleted; it is restored.")
        old = experiment.artifact_location
        if self.sqlite is not None and location is not None and _was_moved(old, location):
            self.sqlite.relocate(old, location)
            self.say(f"MLflow: the project was moved; files of {self.name} go to {location} now.")

    def save_views(self, values: Sequence[str] = ()) -> None:
        """Describe the experiment in MLflow's pages, unless that has been done: its note and saved views.

        Args:
            values: metrics of pipeline runs; without any, views that have some are left as they are.
        """
        from mlflow.exceptions import MlflowException

        tags = experiment_tags(values)
        current = self.client.get_experiment(self.experiment).tags
        if VERSION_TAG in current and (not values or current[VERSION_TAG] == tags[VERSION_TAG]):
            return
        try:
            for key, value in tags.items():
                if key != NOTE_TAG or NOTE_TAG not in current:
                    self.client.set_experiment_tag(self.experiment, key, value)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "PERMISSION_DENIED"):
                raise
            self.say(f"MLflow refuses saved views of {self.name}: {error.message}")

    def resume(self, run_id: str) -> bool:
        """Make sure that a run can be continued, even if it was deleted. False if it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if run.info.lifecycle_stage == "deleted":
            experiment = self.client.get_experiment(run.info.experiment_id)
            if experiment.lifecycle_stage == "deleted":
                self.client.restore_experiment(run.info.experiment_id)
            if self._is_deleted(run_id):
                self.client.restore_run(run_id)
            self.say(f"MLflow: the run {run.info.run_name} had been deleted; it is restored.")
        return True

    def create(self, name: str, tags: dict[str, str], key: str, started: int) -> str:
        """A new run, or the one that was created for `key` when MLflow's answer was lost."""
        found = self.client.search_runs([self.experiment], f"tags.`{RUN_TAG}` = '{key}'")
        if found:
            return _named(found[0].info.run_id)
        run = self.client.create_run(
            self.experiment, started, run_name=name, tags={**tags, RUN_TAG: key}
        )
        return _named(run.info.run_id)

    def nest(self, run_id: str, parent: str) -> None:
        """Make a run a child of another one."""
        self.client.set_tag(run_id, PARENT_TAG, parent)

    def log(self, run_id: str, kind: str, items: Sequence[Any]) -> list[str]:
        """Send metrics, params, tags or datasets; returns the names of those that MLflow refuses."""
        size = BATCHES[kind]
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [name for batch in batches for name in self._log_batch(run_id, kind, batch)]

    def _log_batch(self, run_id: str, kind: str, items: Sequence[Any]) -> list[str]:
        from mlflow.exceptions import MlflowException

        try:
            if kind == "datasets":
                self.client.log_inputs(run_id, datasets=items)
            else:
                self.client.log_batch(run_id, **{kind: items})
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            if self._is_deleted(run_id):
                raise  # the next attempt restores it
            if len(items) == 1:
                return [items[0].dataset.name if kind == "datasets" else items[0].key]
            middle = len(items) // 2
            return [
                *self._log_batch(run_id, kind, items[:middle]),
                *self._log_batch(run_id, kind, items[middle:]),
            ]
        return []

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        if self.folder is not None:
            own = self.folder / run_id / "artifacts"
            if self.client.get_run(run_id).info.artifact_uri == _uri(own):
                (own / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, own / folder / path.name)  # MLflow changes non-UTF-8 paths
                return
        self.client.log_artifact(run_id, str(path), folder or None)

    def log_model_file(self, model: Any, path: Path, inside: str) -> None:
        """Send a file of a logged model, to the path `inside` its folder."""
        if self.folder is not None:
            own = self.folder / "models" / model.model_id / "artifacts"
            if model.artifact_location == _uri(own):
                link(path, own / inside)
                return
        folder = inside.rpartition("/")[0]
        with _timeout_of(path.stat().st_size):
            self.client.log_model_artifact(model.model_id, str(path), folder or None)

    def set_status(self, run_id: str, status: str, time: int) -> None:
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, time)

    def _create(self, location: str | None) -> Any:
        """The new experiment, which another process may create at the same time."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(self.name, location, EXPERIMENT_TAGS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.get_experiment_by_name(self.name)

    def _is_deleted(self, run_id: str) -> bool:
        return self.client.get_run(run_id).info.lifecycle_stage == "deleted"


def import_mlflow() -> None:
    """Import MLflow, outside of a `deadline`: what is imported in part stays so."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    importlib.import_module("mlflow")


def _named(identity: str) -> str:
    """What a server calls an experiment or a run.

    Raises:
        ValueError: it has no name; so are the answers of other servers read.
    """
    if not identity:
        raise ValueError("its answers have no names: expected an MLflow server")
    return identity


def _sqlite(uri: str | None, root: Path, say: Say) -> SqliteStore | None:
    if uri is None:
        return SqliteStore(root / ".mlflow" / "mlflow.db", say)
    return SqliteStore(sqlite_path(uri, root), say) if uri.startswith(SQLITE) else None


def _artifacts(path: Path, experiment: str) -> Path:
    """The folder for the artifacts of an experiment: beside the store."""
    plain = re.fullmatch(r"\w[\w .-]{0,99}", experiment)
    name = experiment if plain else sha256(experiment.encode()).hexdigest()[:16]
    return path.parent / ("artifacts" if path.parent.name == ".mlflow" else "mlruns") / name


def _uri(path: Path) -> str:
    return f"file://{quote(os.fsencode(path))}"


def _was_moved(old: str, new: str) -> bool:
    """Whether artifacts that a project kept at `old` belong to `new`, where it is now."""
    ending = "/".join(new.rsplit("/", 3)[-3:])
    return ending.startswith(".mlflow/") and old != new and old.endswith(f"/{ending}")


@contextmanager
def _timeout_of(size: int) -> Iterator[None]:
    """Within the block a server may take the time of a file of this size before it answers."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(int(before) + size // MIN_BYTES_PER_SECOND)
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow, and undo what the migrations of a store change in the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, too
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
