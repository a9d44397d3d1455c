"""From the snapshots of a training to a checked store."""

from dataclasses import asdict
from pathlib import Path

from edm2.ema.store import SnapshotStore, check_snapshots
from edm2.params import UserError
from edm2.runtime.files import link
from edm2.runtime.manifest import write_manifest


def gather(source: SnapshotStore, folder: Path, end: int) -> None:
    """Link the snapshots of `source` into `folder` and write its index.

    Args:
        end: time in images at which the training ended; a snapshot of every average must stand
            there.

    Raises:
        UserError: a snapshot cannot be read, holds non-finite values, is of another network, or
            one at the end of training is missing.
    """
    last = {s.sigma_rel for s in source.snapshots if s.nimg == end}
    power = {s.sigma_rel for s in source.snapshots if s.average == "power"}
    for length in sorted(power - last) or ([] if last else [source.snapshots[-1].sigma_rel]):
        raise UserError(
            f"{source.folder}: the average of EMA length {length} has no snapshot at the end of "
            f"training, {end} images. Run the training again."
        )
    check_snapshots(source)
    folder.mkdir(parents=True, exist_ok=True)
    for snapshot in source.snapshots:
        link(source.path(snapshot), folder / snapshot.file)
    write_index(SnapshotStore(folder))


def write_index(store: SnapshotStore) -> None:
    """manifest.json: what each snapshot is, and checksums."""
    write_manifest(
        store.folder,
        snapshots=[asdict(snapshot) for snapshot in store.snapshots],
        buffers=store.buffers,
    )
