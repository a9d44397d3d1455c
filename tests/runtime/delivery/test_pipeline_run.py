"""Stages of one pipeline run share an outbox, which becomes the parent of their runs."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edm2.runtime.delivery import deliver
from edm2.runtime.delivery.deliver import Deliverer
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.delivery.pipeline_run import PipelineRun, joined
from edm2.runtime.interruption import Interrupted

TRACKING = {"uri": None, "experiment": "tests"}


def a_stage(key: str = "k", is_last: bool = False) -> PipelineRun:
    return PipelineRun(key, is_last, lambda: ("main: G", {"stage": "pipeline"}, {"configs": "G"}))


def run_stage(root: Path, error: BaseException | None = None, **run: Any) -> Outbox:
    with joined(root / ".state", a_stage(**run), TRACKING) as pipeline:
        assert pipeline is not None
        assert pipeline.outbox.is_running
        if error is not None:
            raise error
    return pipeline.outbox


def statuses(outbox: Outbox) -> list[str]:
    return [entry["status"] for entry, _ in outbox.entries() if "status" in entry]


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".state/pipeline").iterdir() if path.is_dir())


def test_stages_of_one_run_share_an_outbox_until_the_last_is_done(tmp_path: Path) -> None:
    first, second = run_stage(tmp_path), run_stage(tmp_path, is_last=True)
    assert first.folder == second.folder
    assert statuses(first) == ["RUNNING", "SCHEDULED", "RUNNING", "FINISHED"]
    assert [entry["params"] for entry, _ in first.entries() if "params" in entry] == [
        {"configs": "G"}
    ]
    assert not first.is_running
    run_stage(tmp_path)  # the same again, by force: another pipeline run
    run_stage(tmp_path, key="other")
    assert folders(tmp_path) == ["k-1", "k-2", "other-1"]


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted(15), "KILLED"), (ZeroDivisionError(), "FAILED")]
)
def test_an_interrupted_run_goes_on(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)):
        run_stage(tmp_path, error)
    outbox = Outbox(tmp_path / ".state/pipeline/k-1")
    assert statuses(outbox) == ["RUNNING", status]
    with outbox.path.open("a") as file:
        file.write('{"tags": {"incompl')  # a process was killed in the middle
    run_stage(tmp_path, is_last=True)
    assert statuses(outbox)[2:] == ["RUNNING", "FINISHED"]
    assert folders(tmp_path) == ["k-1"]


def test_stages_side_by_side_are_in_one_run(tmp_path: Path) -> None:
    with joined(tmp_path / ".state", a_stage(), TRACKING) as pipeline:
        assert pipeline is not None
        other = run_stage(tmp_path)
        assert other.folder == pipeline.outbox.folder
        assert statuses(other) == ["RUNNING", "RUNNING"]  # it still runs
        with pytest.raises(ZeroDivisionError):
            run_stage(tmp_path, ZeroDivisionError())
    assert statuses(other)[-1] == "FAILED"  # until a stage starts


class Store:
    """A store in memory that knows runs, their parents and their status."""

    runs: ClassVar[dict[str, dict[str, Any]]]

    def __init__(self, *args: Any) -> None:
        self.is_in_place = True

    def session(self) -> Any:
        return nullcontext()

    def open_experiment(self) -> None: ...

    def resume(self, run_id: str) -> bool:
        return run_id in self.runs

    def create(self, name: str, tags: dict[str, str], key: str, started: int) -> str:
        self.runs[key] = {"name": name, "tags": tags}
        return key

    def nest(self, run_id: str, parent: str) -> None:
        self.runs[run_id]["parent"] = self.runs[parent]["name"]

    def save_views(self, values: list[str]) -> None: ...

    def set_status(self, run_id: str, status: str, time: int) -> None:
        self.runs[run_id]["status"] = status

    def log(self, run_id: str, kind: str, items: list[Any]) -> list[str]:
        self.runs[run_id].setdefault(kind, []).extend(items)
        return []


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the store has."""
    Store.runs = {}
    monkeypatch.setattr(deliver, "Store", Store)
    return Store.runs


def make_child(root: Path, parent: str | None, name: str = "fid G-0") -> Outbox:
    outbox = Outbox(root / ".state" / name.replace(" ", "-") / "f")
    outbox.folder.mkdir(parents=True, exist_ok=True)
    about = {"name": name, "tags": {}, "tracking": TRACKING}
    outbox.open(about if parent is None else {**about, "parent": parent})
    outbox.add_status("RUNNING")
    outbox.add_metrics(4, {"loss": math.inf})
    outbox.add_status("FINISHED")
    return outbox


def test_the_first_stage_to_be_delivered_delivers_the_parent(tmp_path: Path, runs) -> None:
    run_stage(tmp_path)
    for name in ("fid G-0", "fid G-1"):
        list(Deliverer(tmp_path, print).deliver(make_child(tmp_path, "pipeline/k-1", name)))
    assert [(run["name"], run.get("parent"), run["status"]) for run in runs.values()] == [
        ("main: G", None, "SCHEDULED"),
        ("fid G-0", "main: G", "FINISHED"),
        ("fid G-1", "main: G", "FINISHED"),
    ]
    (parent, *_) = runs.values()
    assert [(param.key, param.value) for param in parent["params"]] == [("configs", "G")]


def test_a_resumed_stage_moves_to_the_pipeline_run_that_resumes_it(tmp_path: Path, runs) -> None:
    run_stage(tmp_path, key="a")
    list(Deliverer(tmp_path, print).deliver(make_child(tmp_path, "pipeline/a-1")))
    with joined(tmp_path / ".state", PipelineRun("b", False, lambda: ("b: G", {}, {})), TRACKING):
        pass
    list(Deliverer(tmp_path, print).deliver(make_child(tmp_path, "pipeline/b-1")))
    children = [run for run in runs.values() if run["name"] == "fid G-0"]
    assert [run["parent"] for run in children] == ["b: G"]


@pytest.mark.parametrize("parent", [None, "pipeline/removed-1"])
def test_runs_of_before_have_no_parent(tmp_path: Path, runs, parent: str | None) -> None:
    list(Deliverer(tmp_path, print).deliver(make_child(tmp_path, parent)))
    (run,) = runs.values()
    assert (run["name"], run.get("parent"), run["status"]) == ("fid G-0", None, "FINISHED")
