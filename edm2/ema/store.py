"""The snapshot store: averages of a training on disk.

A store is a folder of snapshots (`edm2.ema.snapshot`). When the training is finished, a manifest beside
them has their checksums. A folder without a manifest, of a training that is still running, can be read
as well. A manifest with a `location` refers to the snapshots in another folder.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from edm2.ema.profile import Power
from edm2.ema.snapshot import Snapshot, read_snapshot
from edm2.ema.solve import normalized, solve_profiles
from edm2.ema.tensorfile import TensorReader, check_same_tensors
from edm2.params import UserError
from edm2.runtime.manifest import MANIFEST, REBUILD_HINT, read_manifest
from edm2.runtime.progress import track

CHECKED_LENGTHS = (0.05, 0.10, 0.15, 0.20, 0.25)  # reported when snapshots are missing


class SnapshotStore:
    """An opened store: its `snapshots` by time and length, and the names of its `buffers`.

    `folder` is where the snapshots are. Opening a store reads the headers of the files and compares
    their sizes with the manifest. If snapshots are missing before the end, a warning says how large
    the resulting error is. Snapshots of time 0 are left out, with a note.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: there are no snapshots after time 0; those of the end are missing; a file is
                truncated or corrupted, or is not a snapshot.
        """
        manifest = _read_manifest(folder)
        listed, self.folder = _listed(manifest), folder
        if "location" in manifest:
            self.folder = Path(os.path.normpath(folder / manifest["location"]))
            listed |= _listed(_read_manifest(self.folder))
        paths = sorted(self.folder.glob("ema-*.safetensors"))
        if not paths:
            problem = "holds no" if self.folder.is_dir() else "no such folder, expected one of"
            raise UserError(
                f"{self.folder}: {problem} snapshots (ema-*.safetensors). In a project run the "
                "stage that makes it; of other averages make a store with `edm2 ema import`."
            )
        snapshots = [read_snapshot(path) for path in paths]
        self.snapshots = self._without_start(sorted(snapshot for snapshot, _ in snapshots))
        self.buffers = list(dict.fromkeys(name for _, names in snapshots for name in names))
        missing = sorted(listed - {path.name for path in paths})
        if missing:
            self._report_missing(missing)

    @property
    def has_fixed_lengths(self) -> bool:
        """Whether no other length can be chosen: of a traditional EMA, or of a single snapshot."""
        kinds = {snapshot.average for snapshot in self.snapshots}
        return kinds == {"traditional"} or len(self.snapshots) == 1

    @property
    def parameters(self) -> list[str]:
        """Names of the averaged tensors."""
        with closing(TensorReader(self.path(self.snapshots[-1]))) as reader:
            return [name for name in reader.entries if name not in self.buffers]

    @property
    def end(self) -> int:
        """Time of the latest snapshot."""
        return self.snapshots[-1].nimg

    def at(self, nimg: int) -> Snapshot:
        """The snapshot of one time, in a store of fixed lengths.

        Raises:
            UserError: no snapshot was taken then.
        """
        for snapshot in self.snapshots:
            if snapshot.nimg == nimg:
                return snapshot
        times = ", ".join(str(snapshot.nimg) for snapshot in self.snapshots)
        raise UserError(
            f"{self.folder}: no average was stored at {nimg} images: expected one of {times}."
        )

    def path(self, snapshot: Snapshot) -> Path:
        return self.folder / snapshot.file

    def _without_start(self, snapshots: list[Snapshot]) -> list[Snapshot]:
        """The snapshots that average a training: not those of time 0, which has no profile."""
        kept = [snapshot for snapshot in snapshots if snapshot.nimg > 0]
        if not kept:
            raise UserError(
                f"{self.folder}: all snapshots are of time 0, before any training. Take snapshots "
                "after steps of the training."
            )
        if skipped := [snapshot.file for snapshot in snapshots if snapshot.nimg == 0]:
            print(
                f"note: {self.folder}: skipped {', '.join(skipped)}: at time 0 there is no training "
                "to average.",
                file=sys.stderr,
            )
        return kept

    def _report_missing(self, missing: list[str]) -> None:
        last = max(int(Path(name).stem.rpartition("-")[2]) for name in missing)
        if last > self.end:
            raise UserError(
                f"{self.folder}: the snapshots of the end of training, {last} images, are "
                f"missing. {REBUILD_HINT}"
            )
        profiles = [snapshot.profile for snapshot in self.snapshots]
        targets = [Power(self.end, length) for length in CHECKED_LENGTHS]
        _, errors = normalized(*solve_profiles(profiles, targets))
        by_length = ", ".join(
            f"{error:.1%} at {length}"
            for length, error in zip(CHECKED_LENGTHS, errors, strict=True)
        )
        count = "1 snapshot is" if len(missing) == 1 else f"{len(missing)} snapshots are"
        print(
            f"warning: {self.folder}: {count} missing ({missing[0]}). With the others, the response "
            f"function has an error of {by_length}.",
            file=sys.stderr,
        )


def check_headers(store: SnapshotStore) -> None:
    """Compare the averages of all snapshots by name, dtype and shape; no value is read.

    Raises:
        UserError: a snapshot is of another network, by file and tensor.
    """
    with closing(TensorReader(store.path(store.snapshots[0]))) as first:
        for snapshot in store.snapshots[1:]:
            with closing(TensorReader(store.path(snapshot))) as reader:
                check_same_tensors(reader, first, store.buffers)


def check_values(store: SnapshotStore) -> None:
    """Read every value of every snapshot.

    Raises:
        UserError: a file cannot be read, or a value is not finite, by file and tensor.
    """
    for snapshot in track(store.snapshots, "check snapshots", len(store.snapshots), "file"):
        path = store.path(snapshot)
        with closing(TensorReader(path)) as reader:
            for name in reader.entries:
                if not torch.isfinite(reader.tensor(name)).all():
                    raise UserError(
                        f"{path}: tensor {name}: not all values are finite. {REBUILD_HINT}"
                    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, if it has one; of the files it lists, snapshots may be missing."""
    return read_manifest(folder, optional="ema-*") if (folder / MANIFEST).exists() else {}


def _listed(manifest: Mapping[str, Any]) -> set[str]:
    """Names of the snapshots that a manifest describes."""
    files = {name for name in manifest.get("files", ()) if name.startswith("ema-")}
    return files | {snapshot["file"] for snapshot in manifest.get("snapshots", ())}
