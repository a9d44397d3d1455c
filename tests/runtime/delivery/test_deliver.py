"""Everything in an outbox is delivered once, whatever fails, to a store that records what it takes."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edm2.params import Params
from edm2.params.checks import project_root
from edm2.runtime.delivery import store
from edm2.runtime.delivery.deliver import Deliverer, describe
from edm2.runtime.delivery.destination import destination, with_password
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.state import open_state

TRACKING = {"uri": "http://example.com", "experiment": "tests"}
DOWN = ConnectionError("no route to host")


class Client:
    """An MLflow client whose next calls end as `failures` says (None: well); records what it accepts."""

    def __init__(self) -> None:
        self.failures: list[Exception | None] = []
        self.refused: set[str] = set()
        self.metrics: list[tuple[int, str, float]] = []
        self.params: list[str] = []
        self.tags: dict[str, str] = {}
        self.files: list[str] = []
        self.datasets: list[tuple[str, str, str]] = []
        self.status: list[str] = []
        self.runs: dict[str, str] = {}

    def _may_fail(self) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            experiment_id="1", lifecycle_stage="active", artifact_location="s3:x"
        )

    def search_runs(self, experiments: list[str], query: str) -> list[SimpleNamespace]:
        key = query.split("'")[1]
        return [self.get_run(run) for run, tag in self.runs.items() if tag == key]

    def create_run(self, experiment: str, start: int, run_name: str, tags: Any) -> SimpleNamespace:
        name = f"run {len(self.runs)}"
        self.runs[name] = tags[store.RUN_TAG]
        self._may_fail()
        return self.get_run(name)

    def get_run(self, run_id: str) -> SimpleNamespace:
        info = SimpleNamespace(run_id=run_id, run_name=run_id, lifecycle_stage="active")
        return SimpleNamespace(info=info)

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        from mlflow.exceptions import MlflowException

        self._may_fail()
        if self.refused & {item.key for item in [*metrics, *params, *tags]}:
            raise MlflowException.invalid_parameter_value("no such name")
        self.metrics += [(metric.step, metric.key, metric.value) for metric in metrics]
        self.params += [param.key for param in params]
        self.tags |= {tag.key: tag.value for tag in tags}

    def log_inputs(self, run_id: str, datasets: Any) -> None:
        self._may_fail()
        for item in datasets:
            (tag,) = item.tags
            assert tag.key == "mlflow.data.context"
            self.datasets.append((item.dataset.name, item.dataset.digest, tag.value))

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self._may_fail()
        self.files.append(Path(path).name)

    def update_run(self, run_id: str, status: str) -> None:
        self._may_fail()
        self.status.append(status)

    def set_terminated(self, run_id: str, status: str, end: int) -> None:
        self.update_run(run_id, status)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client of every store."""
    client = Client()
    monkeypatch.setattr("mlflow.MlflowClient", lambda uri: client)
    return client


@pytest.fixture
def outbox(root: Path) -> Outbox:
    """Two metrics, three params, a tag, two files, and a status at each end."""
    folder = root / ".state" / "s" / "f"
    folder.mkdir(parents=True)
    outbox = Outbox(folder)
    outbox.open({"name": "s G", "tags": {}, "tracking": TRACKING})
    outbox.add_status("RUNNING")
    outbox.add(params={"a": "1", "b": "2", "c": "3"})
    for name in ("params.json", "figure.png"):
        (folder / name).write_text("x")
        outbox.add_artifact(folder / name)
    outbox.add_metrics(4, {"loss": 0.5})
    outbox.add_metrics(8, {"loss": 0.25})
    outbox.add(tags={"nonfinite": "since 4 images"})
    outbox.add_status("FINISHED")
    return outbox


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def send(said: list[str]) -> Callable[[Outbox], int]:
    """send(outbox) makes one attempt, and returns how many values and files were sent."""
    return lambda outbox: sum(Deliverer(project_root(), said.append).deliver(outbox))


def assert_complete(client: Client) -> None:
    assert client.metrics == [(4, "loss", 0.5), (8, "loss", 0.25)]
    assert client.params == ["a", "b", "c"]
    assert client.tags == {"nonfinite": "since 4 images"}
    assert client.files == ["params.json", "figure.png"]
    assert client.status == ["RUNNING", "FINISHED"]
    assert len(client.runs) == 1


def test_everything_is_delivered_once(client: Client, outbox: Outbox, send, said) -> None:
    assert outbox.is_pending
    assert send(outbox) == 8
    assert not outbox.is_pending
    assert send(outbox) == 0
    assert_complete(client)
    assert said == []


def test_infinities_are_nan_to_mlflow(client: Client, outbox: Outbox, send) -> None:
    """SQL stores would turn them into large numbers."""
    outbox.add_metrics(12, {"psnr": math.inf})
    send(outbox)
    step, name, value = client.metrics[-1]
    assert (step, name) == (12, "psnr")
    assert math.isnan(value)


@pytest.mark.parametrize("number", range(8))  # the run, 2 statuses, params, metrics, tag, 2 files
def test_the_rest_is_delivered_later_whichever_call_fails(
    client: Client, outbox: Outbox, send, number: int
) -> None:
    client.failures += [*[None] * number, DOWN]
    with pytest.raises(ConnectionError):
        send(outbox)
    assert outbox.is_pending
    send(outbox)
    assert client.failures == []
    assert_complete(client)


def test_what_is_added_later_is_delivered_later(client: Client, outbox: Outbox, send) -> None:
    send(outbox)
    outbox.add_metrics(12, {"loss": 0.125})
    assert send(outbox) == 1
    assert client.metrics[2:] == [(12, "loss", 0.125)]


DATASETS = [
    {
        "name": f"digits {split}",
        "digest": "8e134057e2384552",
        "source_type": "local",
        "source": '{"uri": "data/images"}',
        "schema": "{}",
        "profile": "{}",
        "context": context,
    }
    for split, context in (("train", "training"), ("held-out", "evaluation"))
]


def test_datasets_are_inputs_of_the_run(client: Client, outbox: Outbox, send) -> None:
    outbox.add_datasets(DATASETS[:1])
    outbox.add_datasets(DATASETS)  # by a stage that belongs to the same pipeline run
    client.failures += [*[None] * 6, DOWN]
    with pytest.raises(ConnectionError):
        send(outbox)
    assert client.datasets == []
    send(outbox)
    assert client.datasets == [
        ("digits train", "8e134057e2384552", "training"),
        ("digits held-out", "8e134057e2384552", "evaluation"),
    ]
    assert_complete(client)


def test_a_server_without_datasets_holds_nothing_up(
    client: Client, outbox: Outbox, send, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_inputs(run_id: str, datasets: Any) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

        raise MlflowException("404", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(client, "log_inputs", log_inputs)
    outbox.add_datasets(DATASETS)
    outbox.add_metrics(12, {"loss": 0.125})
    send(outbox)
    assert client.metrics[-1] == (12, "loss", 0.125)
    assert not outbox.is_pending
    (line,) = said
    assert "digits train, digits held-out" in line


def test_a_server_may_take_longer_for_a_large_file(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[str] = []
    monkeypatch.setenv(store.TIMEOUT, "10")
    client.log_model_artifact = lambda *_: limits.append(os.environ[store.TIMEOUT])  # type: ignore[attr-defined]
    (root / "weights").touch()
    os.truncate(root / "weights", 3 * 10**9)  # without blocks on the disk
    opened = store.Store("http://example.com", "tests", root, print)
    opened.log_model_file(SimpleNamespace(model_id="m-1"), root / "weights", "network/weights")
    assert limits == ["3010"]
    assert os.environ[store.TIMEOUT] == "10"


def test_batches_have_at_most_as_many_values_as_mlflow_takes(
    client: Client, outbox: Outbox, send, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setitem(store.BATCHES, "metrics", 3)
    monkeypatch.setattr(
        client, "log_batch", lambda run, metrics=(), **others: sizes.append(len(metrics))
    )
    outbox.add_metrics(12, {f"m{k}": 0.0 for k in range(7)})
    send(outbox)
    assert sizes == [0, 2, 0, 3, 3, 1]


def test_a_refused_name_holds_nothing_up_and_is_said(
    client: Client, outbox: Outbox, send, said
) -> None:
    client.refused = {"b"}
    assert send(outbox) == 7
    assert client.params == ["a", "c"]
    assert client.status[-1] == "FINISHED"
    assert said == ["MLflow refuses these params; the local log has them: b."]


def test_a_file_that_is_gone_is_said(client: Client, outbox: Outbox, send, said) -> None:
    (outbox.folder / "figure.png").unlink()
    assert send(outbox) == 7
    assert client.files == ["params.json"]
    assert "figure.png" in said[0]
    assert not outbox.is_pending


def test_a_file_that_cannot_be_sent_holds_no_value_up(client: Client, outbox: Outbox, send) -> None:
    client.failures += [None] * 6 + [DOWN]
    with pytest.raises(ConnectionError):
        send(outbox)
    assert client.metrics[-1] == (8, "loss", 0.25)
    assert client.status[-1] == "FINISHED"


def test_another_store_gets_the_whole_run(client: Client, outbox: Outbox, send) -> None:
    send(outbox)
    tracking = {"uri": "http://example.org", "experiment": "tests"}
    outbox.open({**outbox.description, "tracking": tracking})
    outbox.add_status("FINISHED")
    client.runs.clear()
    assert send(outbox) == 8
    assert outbox.receipt.store == "http://example.org"


def test_a_run_that_was_killed_is_marked(client: Client, root: Path, send) -> None:
    with open_state("s", "f") as state:
        outbox = Outbox(state.folder)
        outbox.open({"name": "s", "tags": {}, "tracking": TRACKING})
        outbox.add_status("RUNNING")
        send(outbox)
        (outbox.folder / "a.png").touch()
        outbox.add_artifact(outbox.folder / "a.png")
        send(outbox)
        assert not outbox.is_pending
        assert client.status == ["RUNNING"]
    assert outbox.is_pending
    send(outbox)
    assert client.status == ["RUNNING", "KILLED"]
    assert not outbox.is_pending


def test_two_processes_do_not_deliver_the_same(client: Client, outbox: Outbox, send) -> None:
    with outbox.delivering():
        assert send(outbox) == 0
    assert client.runs == {}


def test_an_incomplete_line_is_left_out(client: Client, outbox: Outbox, send) -> None:
    """A process was killed while it wrote; its next launch goes on."""
    with outbox.path.open("a") as file:
        file.write('{"metrics": {"lo')
    assert [entry for entry, _ in outbox.entries()][-1]["status"] == "FINISHED"
    outbox.open(outbox.description)
    outbox.add_metrics(12, {"loss": 1.0})
    send(outbox)
    assert client.metrics[-1] == (12, "loss", 1.0)


def test_passwords_come_from_the_environment(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org/x")
    goal = destination(params)
    assert (goal.uri, goal.name) == (
        "https://me:secret@example.org/x",
        "https://me:***@example.org/x",
    )
    assert goal.kept is not None
    assert "secret" not in goal.kept
    assert with_password(goal.kept) == goal.uri
    assert with_password("https://me:***@elsewhere.org") == "https://me:***@elsewhere.org"
    section = params.tracking.model_copy(update={"uri": "https://you:secret@example.org"})
    goal = destination(params.model_copy(update={"tracking": section}))
    assert (goal.kept, goal.name) == (section.uri, "https://you:***@example.org")
    assert with_password(goal.kept) == section.uri


def test_an_error_is_described_by_its_cause() -> None:
    error, retry = RuntimeError("exceeded"), RuntimeError("retry")
    error.__context__, retry.__cause__ = retry, DOWN
    assert describe(error) == "ConnectionError: no route to host"
    assert describe(RuntimeError("retries\nexceeded")) == "RuntimeError: retries"
    assert describe(TimeoutError()) == "TimeoutError:"


def test_receipts_survive(outbox: Outbox, client: Client, send) -> None:
    send(outbox)
    receipt = json.loads((outbox.folder / "delivered.json").read_text())
    assert receipt["values"] == receipt["files"] == outbox.size
    assert receipt["status"] == "FINISHED"
