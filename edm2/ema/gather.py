"""From the snapshots of a training to a checked store."""

from pathlib import Path

from safetensors import safe_open

from edm2.ema.store import Snapshot, SnapshotStore, check_snapshots, describe
from edm2.params import UserError
from edm2.runtime.files import link
from edm2.runtime.manifest import write_manifest


def gather(source: SnapshotStore, folder: Path, end: int) -> None:
    """Link the snapshots of `source` into `folder` and write its index.

    Args:
        end: time in images at which the training ended; a snapshot must stand there.

    Raises:
        UserError: a snapshot cannot be read, holds non-finite values, is of another network, or
            the one at the end of training is missing.
    """
    if source.end != end:
        raise UserError(
            f"{source.folder}: the last snapshot stands at {source.end} images, expected one at "
            f"the end of training, {end}. Run the training again."
        )
    power = {snapshot.sigma_rel for snapshot in source.snapshots if snapshot.average == "power"}
    for length in sorted(power):
        if Snapshot.of(end, length) not in source.snapshots:
            raise UserError(
                f"{source.folder}: the average of EMA length {length} has no snapshot at the end of "
                f"training, {end} images. Run the training again."
            )
    check_snapshots(source.folder, source.snapshots)
    folder.mkdir(parents=True, exist_ok=True)
    for snapshot in source.snapshots:
        link(source.folder / snapshot.file, folder / snapshot.file)
    with safe_open(folder / source.snapshots[-1].file, framework="pt") as file:
        name = next(iter(file.keys()))
        dtype = str(file.get_tensor(name).dtype).removeprefix("torch.")
    write_manifest(folder, snapshots=describe(source.snapshots), dtype=dtype,
                   buffers=source.facts["buffers"])  # fmt: skip
