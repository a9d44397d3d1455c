"""Deliver outboxes to their stores."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from http.client import HTTPException
from math import isfinite, nan
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.delivery.destination import with_password
from edm2.runtime.delivery.models import Model, log_model
from edm2.runtime.delivery.outbox import Entry, Outbox, Receipt, now
from edm2.runtime.delivery.store import BATCHES, REFUSALS, Say, Store
from edm2.runtime.system_errors import AGAIN, explain

FILES = ("artifact", "model")  # kinds of entries


class Deliverer:
    """Delivers outboxes of one project, and keeps the connection to each store while it works.

    Args:
        root: root of the project.
        say: takes lines for the user.
        upload: called when a model begins, and with the size of each of its files before that is sent.
    """

    def __init__(
        self, root: Path, say: Say, upload: Callable[[int], None] = lambda size: None
    ) -> None:
        self.root, self.say, self.upload = root, say, upload
        self.stores: dict[tuple[str | None, str], Store] = {}

    def open(self, outbox: Outbox) -> Store:
        """The connection to the store of an outbox. Nothing is asked of a store on a server yet."""
        key = _key(outbox.description)
        store = self.stores.get(key)
        if store is None or not store.is_in_place:
            uri, experiment = key
            store = Store(with_password(uri), experiment, self.root, self.say)
            self.stores[key] = store
        return store

    def deliver(self, outbox: Outbox) -> Iterator[int]:
        """Send what is not delivered; yields after each step how many values and files it sent.

        The run's parent goes first, since a child needs its name. Values go before files, so that a file that
        cannot be sent holds none of them up.

        Raises:
            Exception: whatever MLflow raises. The receipt says what was delivered before.
        """
        parent = outbox.parent
        if parent is not None and parent.is_pending:
            yield from self._deliver(parent, wait=True)
            self._save_views(parent)
        yield from self._deliver(outbox)

    def _save_views(self, parent: Outbox) -> None:
        """Let MLflow's pages show the values by which pipeline runs are compared."""
        logged = [entry["metrics"] for entry, _ in parent.entries() if "metrics" in entry]
        store = self.open(parent)
        with store.session():
            store.save_views(
                [name for name in (logged[-1] if logged else ()) if name.count("/") == 1]
            )

    def _deliver(self, outbox: Outbox, wait: bool = False) -> Iterator[int]:
        with outbox.delivering(wait) as is_mine:
            if not is_mine or not outbox.is_pending:
                return
            description = outbox.description
            key = _key(description)
            try:
                store = self.open(outbox)
                with store.session():
                    receipt = _open_run(store, outbox, description, key[0])
                yield 0
                yield from self._deliver_values(store, outbox, receipt)
                yield from self._deliver_files(store, outbox)
            except BaseException:
                self.stores.pop(key, None)
                raise

    def _deliver_values(self, store: Store, outbox: Outbox, receipt: Receipt) -> Iterator[int]:
        run_id = receipt.run_id
        for batch, position in _batches(outbox.entries(receipt.values)):
            receipt = replace(receipt, values=position)
            count = 0
            with store.session():
                if batch and "status" in batch[0]:
                    receipt = replace(receipt, status=batch[0]["status"])
                    store.set_status(run_id, receipt.status, batch[0]["time"])
                elif batch:
                    count = self._log(store, run_id, batch)
            outbox.receipt = receipt
            yield count
        if receipt.status == "RUNNING" and not outbox.is_running:
            with store.session():
                store.set_status(run_id, "KILLED", now())
            outbox.receipt = replace(receipt, status="KILLED")

    def _log(self, store: Store, run_id: str, batch: Sequence[Entry]) -> int:
        """Log metrics, params, tags or datasets; returns how many MLflow has taken."""
        kind, items = _items(batch)
        refused = store.log(run_id, kind, items)
        if refused:
            names = ", ".join(dict.fromkeys(refused))
            self.say(f"MLflow refuses these {kind}; the local log has them: {names}.")
        return len(items) - len(refused)

    def _deliver_files(self, store: Store, outbox: Outbox) -> Iterator[int]:
        receipt = outbox.receipt
        for entry, position in outbox.entries(receipt.files):
            receipt = replace(receipt, files=position)
            kind = next((kind for kind in FILES if kind in entry), None)
            if kind is not None:
                path = outbox.folder / entry["folder" if kind == "model" else "artifact"]
                if not path.exists():
                    self.say(f"MLflow does not get {path}: it does not exist any more.")
                elif kind == "model":
                    yield from self._deliver_model(store, receipt, entry, path)
                else:
                    with store.session():
                        store.log_file(receipt.run_id, path, entry["folder"])
                    yield 1
                outbox.receipt = receipt
        outbox.receipt = receipt

    def _deliver_model(
        self, store: Store, receipt: Receipt, entry: Entry, folder: Path
    ) -> Iterator[int]:
        """Log a model to the run, and list it in the run's parent."""
        from mlflow.exceptions import MlflowException

        runs, model = [receipt.run_id, *filter(None, [receipt.parent])], Model(**entry["model"])
        self.upload(0)
        try:
            for size in log_model(store, runs, model, folder, entry["time"]):
                yield 0
                self.upload(size)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self.say(
                f"MLflow does not get the model {model.name}, which is in {folder}: {error.message}"
            )
        yield 1


def _key(description: Mapping[str, Any]) -> tuple[str | None, str]:
    tracking = description["tracking"]
    return tracking["uri"], tracking["experiment"]


def _open_run(
    store: Store, outbox: Outbox, description: Mapping[str, Any], uri: str | None
) -> Receipt:
    """The receipt of a run that exists in the store; of a new one, if its run is not there."""
    store.open_experiment()
    receipt = outbox.receipt
    if not (receipt.store == uri and receipt.run_id and store.resume(receipt.run_id)):
        started = outbox.started
        name = f"{outbox.folder.parent.name} {outbox.folder.name} {started}"
        key = sha256(name.encode()).hexdigest()
        run_id = store.create(description["name"], description["tags"], key, started)
        receipt = Receipt(store=uri, run_id=run_id, status="RUNNING")
    parent = "" if outbox.parent is None else outbox.parent.receipt.run_id
    if parent not in ("", receipt.parent):
        store.nest(receipt.run_id, parent)
        receipt = replace(receipt, parent=parent)
    outbox.receipt = receipt
    return receipt


def _batches(entries: Iterable[tuple[Entry, int]]) -> Iterator[tuple[list[Entry], int]]:
    """Consecutive entries of one kind, as many as MLflow takes at once, and the position behind them."""
    batch: list[Entry] = []
    kind, size, end = "", 0, 0
    for entry, position in entries:
        this = next(key for key in (*BATCHES, "status", *FILES) if key in entry)
        if this not in FILES:
            more = len(entry[this])
            if batch and (this != kind or size + more > BATCHES.get(this, 0)):
                yield batch, end
                batch, size = [], 0
            batch.append(entry)
            kind, size = this, size + more
        end = position
    if end:
        yield batch, end  # empty if only files are left


def _items(batch: Sequence[Entry]) -> tuple[str, list[Any]]:
    """The metrics, params, tags or datasets of entries, as MLflow takes them.

    Infinities become NaN, because SQL stores would turn them into large numbers.
    """
    from mlflow.entities import Metric, Param, RunTag

    for kind, item in (("params", Param), ("tags", RunTag)):
        if kind in batch[0]:
            return kind, [item(*pair) for entry in batch for pair in entry[kind].items()]
    if "datasets" in batch[0]:
        return "datasets", [_dataset(**fields) for entry in batch for fields in entry["datasets"]]
    return "metrics", [
        Metric(key, value if isfinite(value) else nan, entry["time"], entry["step"])
        for entry in batch
        for key, value in entry["metrics"].items()
    ]


def _dataset(context: str, **fields: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(Dataset(**fields), [InputTag("mlflow.data.context", context)])


def describe(error: BaseException) -> str:
    """An error of MLflow in one line: the error of the network, file or database that it wraps."""
    cause = _cause(error)
    text = explain(cause)
    if text is None:
        own = isinstance(cause, UserError)
        text = str(cause) if own else f"{type(cause).__name__}: {cause}"[:300]
    line = text.removesuffix(AGAIN).removeprefix("a file: ").strip().rstrip(".").splitlines()[0]
    remedy = "; rename it, and a new one is made" if _is_damage(cause) else ""
    return "".join(letter if letter.isprintable() else "?" for letter in line) + remedy


def _is_damage(error: BaseException) -> bool:
    """Whether the file of a store is no database of SQLite, or not any more."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unreachable(error: BaseException) -> bool:
    """Whether the store could not be reached, or did not answer."""
    return isinstance(_cause(error), (ConnectionError, TimeoutError))


def _cause(error: BaseException) -> BaseException:
    """The innermost error of the system or of HTTP behind an error; the error itself if there is none."""
    cause, inner = error, _behind(error)
    while inner is not None:
        of_http = isinstance(inner, HTTPException) or type(inner).__name__ == "ResponseError"
        if of_http or isinstance(inner, (OSError, sqlite3.Error)):
            cause = inner
        inner = _behind(inner)
    return cause


def _behind(error: BaseException) -> BaseException | None:
    """The error that another one wraps; the package urllib3 has it among the values of its own."""
    inside = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
    return next((each for each in inside if isinstance(each, BaseException)), None)
