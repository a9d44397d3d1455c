"""A model of a run, in a real MLflow store."""

import math
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edm2.runtime.delivery import __main__ as delivery
from edm2.runtime.delivery import deadline
from edm2.runtime.delivery.deliver import Deliverer
from edm2.runtime.delivery.models import Model
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.tracking import NOTE

pytestmark = pytest.mark.slow
TRACKING = {"uri": None, "experiment": "tests"}
MODEL = Model(
    name="v1.5 digits",
    loader="model_of_tests",
    signature={
        "inputs": '[{"type": "long", "name": "seed", "required": true}]',
        "outputs": '[{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, 4, 4, 3]}}]',
        "params": '[{"name": "steps", "type": "long", "default": 32, "shape": null}]',
    },
    requirements=["edm2"],
    metrics={"fd": 1.5, "psnr": math.inf},
    params={"ema_length": "0.1"},
    note="# A model card",
    dataset=["digits train", "8e134057e2384552"],
)


def fail(*args: Any, **options: Any) -> None:
    raise ConnectionError("no route to host")


def make_outbox(root: Path, name: str, **about: Any) -> Outbox:
    folder = root / ".state" / name
    folder.mkdir(parents=True)
    outbox = Outbox(folder)
    tags = {"mlflow.user": "me", "stage": "report"}
    outbox.open({"name": name, "tags": tags, "tracking": TRACKING, **about})
    outbox.add_status("RUNNING")
    return outbox


@pytest.fixture
def sizes() -> list[int]:
    """Of the files that were about to be sent."""
    return []


@pytest.fixture
def outbox(root: Path, sizes: list[int]) -> Outbox:
    """The outbox of a run with a model."""
    make_outbox(root, "pipeline/k-1").add_status("FINISHED")
    outbox = make_outbox(root, "report/f", parent="pipeline/k-1")
    network = outbox.folder / "digits"
    (network / "codec").mkdir(parents=True)
    (network / "weights").write_bytes(b"weights")
    (network / "codec" / "manifest.json").write_text("{}")
    outbox.add_model(asdict(MODEL), network)
    outbox.add_status("FINISHED")
    return outbox


@pytest.fixture
def deliver(root: Path, sizes: list[int]) -> Any:
    """deliver(outbox) makes one attempt."""

    def deliver(outbox: Outbox) -> None:
        for _ in Deliverer(root, print, sizes.append).deliver(outbox):
            pass

    return deliver


def test_a_model_is_logged_once_and_can_be_loaded(
    outbox: Outbox, root: Path, deliver, sizes, new_stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient, pyfunc

    with monkeypatch.context() as patch:  # the first attempt fails when the model has its files
        patch.setattr("mlflow.MlflowClient.log_outputs", fail)
        with pytest.raises(ConnectionError):
            deliver(outbox)
    assert outbox.is_pending
    assert len(b"weights") in sizes
    deliver(outbox)
    assert not outbox.is_pending
    client = MlflowClient(f"sqlite:///{root}/.mlflow/mlflow.db")
    receipt = outbox.receipt
    experiment = client.get_run(receipt.run_id).info.experiment_id
    (logged,) = client.search_logged_models([experiment])
    name = MODEL.name.replace(".", "-")  # which MLflow allows in no name
    assert (logged.name, str(logged.status), logged.source_run_id) == (
        name,
        "READY",
        receipt.run_id,
    )
    assert logged.params == MODEL.params
    assert (logged.tags[NOTE], logged.tags["mlflow.user"]) == (MODEL.note, "me")
    (metric,) = logged.metrics  # those that are finite
    assert (metric.key, metric.value) == ("fd", 1.5)
    assert [metric.dataset_name, metric.dataset_digest] == MODEL.dataset
    for run_id in (receipt.run_id, receipt.parent):
        (output,) = client.get_run(run_id).outputs.model_outputs
        assert output.model_id == logged.model_id
    loader = SimpleNamespace(_load_pyfunc=lambda folder: SomeModel(Path(folder)))
    monkeypatch.setitem(sys.modules, MODEL.loader, loader)
    loaded = pyfunc.load_model(logged.artifact_location)
    assert loaded.predict({"seed": [7]}) == ([7], 32, b"weights")
    assert pyfunc.get_model_dependencies(logged.artifact_location).endswith("requirements.txt")


class SomeModel:
    """Returns what it gets, and the weights."""

    def __init__(self, folder: Path) -> None:
        self.network = folder / "network"
        assert (self.network / "codec" / "manifest.json").read_text() == "{}"

    def predict(self, model_input: Any, params: Any = None) -> Any:
        return list(model_input["seed"]), params["steps"], (self.network / "weights").read_bytes()


def test_a_server_without_models_holds_nothing_up(
    outbox: Outbox, root: Path, deliver, new_stores, monkeypatch, capsys
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def refuse(*args: Any, **options: Any) -> None:
        raise MlflowException("404", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr("mlflow.MlflowClient.search_logged_models", refuse)
    deliver(outbox)
    assert not outbox.is_pending
    assert "MLflow does not get the model v1.5 digits" in capsys.readouterr().out


def test_a_model_whose_files_are_gone_is_said(outbox: Outbox, deliver, new_stores, capsys) -> None:
    (outbox.folder / "digits").rename(outbox.folder / "elsewhere")
    deliver(outbox)
    assert not outbox.is_pending
    assert "digits: it does not exist any more" in capsys.readouterr().out


def test_a_large_file_may_take_its_time(monkeypatch, capsys) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(deadline.signal, "setitimer", lambda timer, value: seconds.append(value))
    for size in (0, 6 * 10**9):
        delivery._allow(size)
    assert seconds == [60, 6060]
    assert capsys.readouterr().out.count("upload") == 2
