"""The snapshot store: averages of a training on disk.

A store is a folder of safetensors files whose metadata hold the time, the averaging profile and the
names of buffers. When the training is finished, a manifest beside them has their checksums. A folder
without a manifest, of a training that is still running, can be read as well. A manifest with a
`location` refers to the snapshots in another folder.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edm2.ema.profile import Power, Profile, Traditional, traditional_sigma_rel
from edm2.ema.solve import normalized, solve_profiles
from edm2.ema.tensorfile import NAMES, TensorReader, check_same_tensors
from edm2.params import UserError
from edm2.params.configs import Average
from edm2.params.errors import NotFiniteError
from edm2.runtime.files import replacing
from edm2.runtime.manifest import MANIFEST, REBUILD_HINT, read_manifest
from edm2.runtime.progress import track

CHECKED_LENGTHS = (0.05, 0.10, 0.15, 0.20, 0.25)  # reported when snapshots are missing


@dataclass(frozen=True, order=True)
class Snapshot:
    """One stored average.

    Attributes:
        nimg: time in images at which it ends.
        sigma_rel: its EMA length; for a traditional average, the effective length.
        file: its name in the store.
        halflife_nimg, rampup: of a traditional average, see `TraditionalEMA`; else None.
    """

    nimg: int
    sigma_rel: float
    file: str
    halflife_nimg: float | None = None
    rampup: float | None = None

    @classmethod
    def power(cls, nimg: int, sigma_rel: float) -> "Snapshot":
        return cls(nimg, sigma_rel, f"ema-{sigma_rel!r}-{nimg:012d}.safetensors")

    @classmethod
    def traditional(cls, nimg: int, halflife_nimg: float, rampup: float) -> "Snapshot":
        length = round(traditional_sigma_rel(nimg, halflife_nimg, rampup), 6)
        file = f"ema-traditional-{nimg:012d}.safetensors"
        return cls(nimg, length, file, halflife_nimg, rampup)

    @property
    def average(self) -> Average:
        return "power" if self.halflife_nimg is None else "traditional"

    @property
    def profile(self) -> Profile:
        if self.halflife_nimg is None or self.rampup is None:
            return Power(self.nimg, self.sigma_rel)
        return Traditional(self.nimg, self.halflife_nimg, self.rampup)


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    metadata: Mapping[str, str] | None = None,
    exact: Collection[str] = (),
) -> None:
    """Write named tensors, floating-point ones as `dtype`; the file appears when it is complete.

    Args:
        exact: names of the tensors that keep their dtype, where it can be stored.

    Raises:
        NotFiniteError: a value is not finite, or not in the range of `dtype`.
        UserError: a tensor's dtype cannot be stored, or it is sparse or without values.
    """
    stored = {}
    for name, tensor in tensors.items():
        keep = not tensor.is_floating_point() or (name in exact and tensor.dtype in NAMES)
        target = tensor.dtype if keep else dtype
        if tensor.is_meta:
            raise UserError(
                f"{path}: tensor {name}: on the meta device, expected values. Give it values "
                "(`to_empty`), or register it as a buffer that is not persistent."
            )
        if target not in NAMES or tensor.layout != torch.strided:
            raise UserError(
                f"{path}: tensor {name}: {target}, {tensor.layout} cannot be stored: expected one of "
                f"{', '.join(map(str, NAMES))}, and torch.strided. Convert it, or register it as a "
                "buffer that is not persistent."
            )
        # a copy: tied weights share memory, which safetensors refuses
        cast = tensor.detach().to("cpu", target, copy=True).contiguous()
        if not torch.isfinite(cast).all():
            raise NotFiniteError(
                f"{path}: tensor {name}: not all values are finite in {target}.", name
            )
        stored[name] = cast
    with replacing(path) as temporary:
        save_file(stored, temporary, dict(metadata or {}))


def write_snapshot(
    folder: Path,
    snapshot: Snapshot,
    tensors: Mapping[str, torch.Tensor],
    buffers: Sequence[str],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one average, in 16 bits.

    Args:
        buffers: names of the tensors that are not averaged; they keep their dtype.

    Raises:
        UserError: a value is not finite or not in the range of `dtype`, or a tensor's dtype cannot
            be stored.
    """
    metadata = {
        "nimg": snapshot.nimg,
        "sigma_rel": snapshot.sigma_rel,
        "halflife_nimg": snapshot.halflife_nimg,
        "rampup": snapshot.rampup,
        "buffers": list(buffers),
    }
    try:
        text = json.dumps(metadata)
        write_tensors(folder / snapshot.file, tensors, dtype, {"snapshot": text}, buffers)
    except NotFiniteError as error:
        if error.tensor in buffers:
            raise UserError(
                f"{error} It is a buffer. If its values are meant to be infinite, register it with "
                "persistent=False, and compute it in the module's constructor."
            ) from None
        raise UserError(
            f"{error} The training diverged before {snapshot.nimg} images, or its values exceed the "
            "range of that dtype. Lower the learning rate, or lengthen its ramp-up, and train again. "
            f"The snapshots of earlier times are still in {folder}."
        ) from None


def remove_snapshots_after(folder: Path, nimg: int) -> None:
    """Remove the snapshots of later times than the one at which the training continues."""
    for path in folder.glob("ema-*.safetensors"):
        if int(path.stem.rpartition("-")[2]) > nimg:
            path.unlink()


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
            raise UserError(
                f"{self.folder}: holds no snapshots (ema-*.safetensors). Run the stage that makes it."
            )
        snapshots = [_read_snapshot(path) for path in paths]
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


def _read_snapshot(path: Path) -> tuple[Snapshot, list[str]]:
    """What a file's metadata say it is, and the names of its buffers."""
    with closing(TensorReader(path)) as reader:
        text = reader.metadata.get("snapshot")
    try:
        metadata = json.loads(text or "")
        snapshot = Snapshot(
            metadata["nimg"],
            metadata["sigma_rel"],
            path.name,
            metadata["halflife_nimg"],
            metadata["rampup"],
        )
        if snapshot.nimg < 0:
            raise ValueError("a time below 0")
        return snapshot, list(metadata["buffers"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: a tensor file, but not a snapshot: its metadata do not describe an average. "
            "Write snapshots with `write_snapshot`."
        ) from None
