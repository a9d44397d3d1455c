"""What one run has for MLflow: a file of entries, and a receipt that says how far they are delivered."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.checked_json import (
    checked_line,
    read_checked,
    read_checked_line,
    write_checked,
)
from edm2.runtime.locks import exclusive, is_held

Entry = dict[str, Any]
REMEDY = (
    "Remove run.json, outbox.jsonl and delivered.json in this folder: MLflow keeps what it has, and "
    "log.jsonl has all values."
)


@dataclass(frozen=True)
class Receipt:
    """What a store has taken.

    Attributes:
        store: the store's URI; None for that of the project.
        run_id: MLflow's name of the run; empty if it has none yet.
        values, files: bytes of the outbox up to which values and files are delivered.
        status: the last status that was set.
        parent: MLflow's name of the run whose child this one was made.
    """

    store: str | None = None
    run_id: str = ""
    values: int = 0
    files: int = 0
    status: str = ""
    parent: str = ""


class Outbox:
    """The outbox in the state folder of a run. Its run appends; one process at a time delivers.

    An entry has one of the keys `metrics` (with step and time), `params`, `tags`, `datasets` (fields of
    MLflow's Dataset, and its context), `artifact` (a path, absolute or below the state folder; with
    folder), `model` (see `models.Model`; with the folder of its files, and time), or `status` (with
    time). Times are in ms.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "outbox.jsonl"

    def open(self, description: Mapping[str, Any]) -> None:
        """Begin to append: write what the run is, and drop an incomplete line of a killed process."""
        write_checked(self.folder / "run.json", description, self.folder.name)
        with self.path.open("ab+") as file:
            file.seek(0)
            size = file.truncate(file.read().rfind(b"\n") + 1)
        receipt = self.receipt
        if max(receipt.values, receipt.files) > size:  # the end was lost in a power cut
            self.receipt = replace(
                receipt, values=min(receipt.values, size), files=min(receipt.files, size)
            )

    def add(self, **entry: Any) -> None:
        line, _ = checked_line(entry, self.folder.name)
        with self.path.open(
            "ab", buffering=0
        ) as file:  # one write, as the delivery adds entries, too
            file.write(line.encode())

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.add(metrics=dict(metrics), step=step, time=now())

    def add_datasets(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Add those that are not there already."""
        known = [dataset for entry, _ in self.entries() for dataset in entry.get("datasets", ())]
        if new := [dict(dataset) for dataset in datasets if dataset not in known]:
            self.add(datasets=new)

    def add_artifact(self, path: Path, folder: str = "") -> None:
        self.add(artifact=self._name(path), folder=folder)

    def add_model(self, model: Mapping[str, Any], folder: Path) -> None:
        self.add(model=dict(model), folder=self._name(folder), time=now())

    def add_status(self, status: str) -> None:
        self.add(status=status, time=now())

    def _name(self, path: Path) -> str:
        inside = path.is_relative_to(self.folder)
        return str(path.relative_to(self.folder) if inside else path.absolute())

    def entries(self, position: int = 0) -> Iterator[tuple[Entry, int]]:
        """The complete entries from a byte position on, each with the position behind it.

        Raises:
            UserError: one is damaged.
        """
        with self.path.open("rb") as file:
            file.seek(position)
            for line in file:
                position += len(line)
                if line.endswith(b"\n"):
                    try:
                        entry, _ = read_checked_line(line, self.folder.name)
                    except ValueError:
                        raise UserError(
                            f"{self.path}: the line that ends at byte {position}: not as it was written: "
                            f"damaged, or of an earlier version. {REMEDY}"
                        ) from None
                    yield entry, position

    @property
    def started(self) -> int:
        """The time at which the run began first."""
        return int(next(entry["time"] for entry, _ in self.entries() if "time" in entry))

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def description(self) -> dict[str, Any]:
        """What the run is: name, tags, the store that it logs to, and maybe its parent.

        Raises:
            UserError: it is damaged.
        """
        return read_checked(self.folder / "run.json", REMEDY, REMEDY, self.folder.name)

    @property
    def parent(self) -> "Outbox | None":
        """The outbox of the pipeline run, if this run belongs to one that still exists."""
        name = self.description.get("parent")
        parent = None if name is None else Outbox(self.folder.parents[1] / name)
        return parent if parent is not None and parent.size else None

    @property
    def receipt(self) -> Receipt:
        """How far the outbox is delivered; nothing, if that was damaged: a store may get it twice."""
        try:
            return Receipt(**read_checked(self.folder / "delivered.json", "", "", self.folder.name))
        except UserError:
            return Receipt()

    @receipt.setter
    def receipt(self, receipt: Receipt) -> None:
        write_checked(self.folder / "delivered.json", asdict(receipt), self.folder.name)

    @property
    def is_pending(self) -> bool:
        """Whether something is not delivered, such as the end of a run that was killed."""
        receipt = self.receipt
        undelivered = min(receipt.values, receipt.files) < self.size
        return undelivered or (receipt.status == "RUNNING" and not self.is_running)

    @property
    def is_running(self) -> bool:
        """Whether a process has the state folder open."""
        return is_held(self.lock)

    @property
    def lock(self) -> Path:
        """The lock of the processes that have the state folder open."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    def delivering(self, wait: bool = False) -> AbstractContextManager[bool]:
        """Within the block no other process delivers. Without `wait` the value is false if one does."""
        return exclusive(self.folder / "delivery.lock", wait)


def outboxes(root: Path) -> list[Outbox]:
    """All outboxes of the project."""
    return [Outbox(path.parent) for path in sorted(root.glob(".state/*/*/outbox.jsonl"))]


def now() -> int:
    return int(time.time() * 1000)
