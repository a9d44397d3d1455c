"""manifest.json of a snapshot store: what its snapshots are, and where."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edm2.ema.store import SnapshotStore, check_headers
from edm2.params import UserError
from edm2.runtime.manifest import write_manifest


def write_index(store: SnapshotStore, **metadata: Any) -> None:
    """Describe the snapshots beside them, with a checksum of every file of the folder, and `metadata`."""
    write_manifest(store.folder, **_metadata(store), **metadata)


def index_training(training: SnapshotStore, folder: Path, location: str, end: int) -> None:
    """Make `folder` a store of the snapshots of a finished training, which stay where they are.

    Only the headers of the snapshots are read.

    Args:
        location: the training's folder, relative to `folder` where that is published.
        end: time in images at which the training ended.

    Raises:
        UserError: the snapshots are not of one network, or an average has no snapshot at `end`.
    """
    _check_end(training, end)
    check_headers(training)
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, **_metadata(training), location=location)


def _metadata(store: SnapshotStore) -> dict[str, Any]:
    return {
        "snapshots": [asdict(snapshot) for snapshot in store.snapshots],
        "buffers": store.buffers,
    }


def _check_end(training: SnapshotStore, end: int) -> None:
    at_end = {s.sigma_rel for s in training.snapshots if s.nimg == end}
    power = {s.sigma_rel for s in training.snapshots if s.average == "power"}
    missing = sorted(power - at_end)
    if not missing and not at_end:
        missing = [training.snapshots[-1].sigma_rel]
    if missing:
        raise UserError(
            f"{training.folder}: the average of EMA length {missing[0]} has no snapshot at the end "
            f"of training, {end} images. Run the training again."
        )
