"""Runs in stores of MLflow, copied from an empty one: MLflow takes two seconds to make that."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from store_rows import DATASET, VALUES

from edm2.params import Params
from edm2.params.checks import project_root
from edm2.runtime import tracking
from edm2.runtime.delivery import sqlite
from edm2.runtime.delivery.deliver import Deliverer
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.delivery.pipeline_run import PipelineRun
from edm2.runtime.state import open_state
from edm2.runtime.tracking import NOTE, RunDescription, open_run


@pytest.fixture(scope="session")
def empty_store() -> bytes:
    """The file of a new store, made once."""
    return sqlite._empty_store(Path("/project/.mlflow/mlflow.db"))


@pytest.fixture
def new_stores(monkeypatch: pytest.MonkeyPatch, empty_store: bytes) -> None:
    """Stores that are made in the test are copies."""
    monkeypatch.setattr(sqlite, "_empty_store", lambda path: empty_store)


class Courier:
    """Delivers in this process, at the end of the run."""

    said: ClassVar[list[str]] = []

    def __init__(self, outbox: Outbox, store: str) -> None:
        self.outbox = outbox

    def close(self) -> None:
        for _ in Deliverer(project_root(), self.said.append).deliver(self.outbox):
            pass


@pytest.fixture
def deliver_in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(tracking, "Courier", Courier)
    monkeypatch.setattr(Courier, "said", [])
    return Courier.said


@pytest.fixture
def run(params: Params, new_stores: None) -> Callable[..., str]:
    """run(root, ...) logs a row and a file in a project, and returns the name of the MLflow run."""

    def run(
        root: Path,
        fingerprint: str = "f",
        nimg: int = 4,
        pipeline: PipelineRun | None = None,
        **section: Any,
    ) -> str:
        section = {"mlflow": True, "uri": None, "experiment": "tests", **section}
        changed = params.model_copy(update={"tracking": params.tracking.model_copy(update=section)})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DVC_ROOT", str(root))
            describe = partial(RunDescription, {}, VALUES, pipeline, [DATASET])
            with (
                open_state("s", fingerprint) as state,
                open_run("s G", changed, state, describe) as opened,
            ):
                opened.log(nimg, {"loss": 2.0 / nimg, "max": math.inf})
                (state.results / "a.png").write_bytes(b"picture")
                opened.log_artifact(state.results / "a.png", "figures")
                opened.log_to_pipeline({"best/fd": 1.5}, {NOTE: "It helps."})
        return Outbox(state.folder).receipt.run_id

    return run
