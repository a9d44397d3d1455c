"""The snapshot store: averages of a training on disk, each file saying what it is.

A store is a folder of safetensors files whose metadata hold time, averaging profile and the names of
buffers. A manifest beside them, once a training is done, has their checksums; without one the folder
is that of a training that goes on, and can be read all the same.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edm2.ema.profile import Power, Profile, Traditional, traditional_sigma_rel
from edm2.ema.solve import solve_profiles
from edm2.params import UserError
from edm2.params.configs import Average
from edm2.runtime.files import replacing
from edm2.runtime.manifest import NAME, WAY_OUT, read_manifest
from edm2.runtime.progress import track

CHECKED_LENGTHS = (0.05, 0.10, 0.15, 0.20, 0.25)  # that a missing snapshot is told to cost


@dataclass(frozen=True, order=True)
class Snapshot:
    """One stored average.

    Attributes:
        nimg: time in images at which it ends.
        sigma_rel: its EMA length; that of a traditional average is the effective one.
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
) -> None:
    """Write named tensors, floating-point ones as `dtype`; the file appears when complete.

    Raises:
        UserError: a value is not finite, or does not fit `dtype`.
    """
    stored = {}
    for name, tensor in tensors.items():
        cast = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        if not torch.isfinite(cast).all():
            raise UserError(f"{path}: tensor {name}: not all values are finite in {dtype}.")
        stored[name] = cast.contiguous()
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
        buffers: names of tensors that are not averaged.
    """
    facts = {
        "nimg": snapshot.nimg,
        "sigma_rel": snapshot.sigma_rel,
        "halflife_nimg": snapshot.halflife_nimg,
        "rampup": snapshot.rampup,
        "buffers": list(buffers),
    }
    write_tensors(folder / snapshot.file, tensors, dtype, {"snapshot": json.dumps(facts)})


def remove_snapshots_after(folder: Path, nimg: int) -> None:
    """Undo snapshots of a time that training has been rolled back behind."""
    for path in folder.glob("ema-*.safetensors"):
        if int(path.stem.rpartition("-")[2]) > nimg:
            path.unlink()


class SnapshotStore:
    """An opened store: `snapshots` by time and length, and the names of `buffers`.

    Opening verifies what a manifest lists. A snapshot in the middle may be missing: that is said,
    with the error that follows from it.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: no snapshots; the last one is missing; a truncated or corrupt file, or one
                that is no snapshot.
        """
        self.folder = folder
        listed: list[str] | None = None
        if (folder / NAME).exists():
            listed = [
                name
                for name in read_manifest(folder, optional="ema-*")["files"]
                if name.startswith("ema-")
            ]
        paths = sorted(folder.glob("ema-*.safetensors"))
        if not paths:
            raise UserError(
                f"{folder}: holds no snapshots (ema-*.safetensors). Run the stage that makes it."
            )
        described = [_describe(path) for path in paths]
        self.snapshots = sorted(snapshot for snapshot, _ in described)
        self.buffers = described[0][1]
        missing = sorted(set(listed or []) - {snapshot.file for snapshot in self.snapshots})
        if missing:
            self._tell(missing)

    @property
    def fixed(self) -> bool:
        """Whether lengths were fixed before: a traditional EMA, or a single finished average."""
        kinds = {snapshot.average for snapshot in self.snapshots}
        return kinds == {"traditional"} or len(self.snapshots) == 1

    @property
    def parameters(self) -> list[str]:
        """Names of what is averaged."""
        with safe_open(self.path(self.snapshots[-1]), framework="pt") as file:
            return [name for name in file.keys() if name not in self.buffers]  # noqa: SIM118

    @property
    def end(self) -> int:
        """Time of the latest snapshot."""
        return self.snapshots[-1].nimg

    def at(self, nimg: int) -> Snapshot:
        """The snapshot of one time, in a store of fixed lengths.

        Raises:
            UserError: none was taken then.
        """
        for snapshot in self.snapshots:
            if snapshot.nimg == nimg:
                return snapshot
        known = ", ".join(str(snapshot.nimg) for snapshot in self.snapshots)
        raise UserError(
            f"{self.folder}: no average was stored at {nimg} images: expected some of {known}."
        )

    def path(self, snapshot: Snapshot) -> Path:
        return self.folder / snapshot.file

    def _tell(self, missing: list[str]) -> None:
        last = max(int(Path(name).stem.rpartition("-")[2]) for name in missing)
        if last > self.end:
            raise UserError(
                f"{self.folder}: the snapshots of the end of training, {last} images, are "
                f"missing. {WAY_OUT}"
            )
        profiles = [snapshot.profile for snapshot in self.snapshots]
        targets = [Power(self.end, length) for length in CHECKED_LENGTHS]
        _, errors = solve_profiles(profiles, targets)
        told = ", ".join(
            f"{error:.1%} at {length}"
            for length, error in zip(CHECKED_LENGTHS, errors, strict=True)
        )
        count = "1 snapshot is" if len(missing) == 1 else f"{len(missing)} snapshots are"
        print(
            f"warning: {self.folder}: {count} missing ({missing[0]}); the others give response "
            f"functions with an error of {told}.",
            file=sys.stderr,
        )


def check_snapshots(store: SnapshotStore) -> None:
    """Read every snapshot: all of the same tensors and shapes, all values finite.

    Raises:
        UserError: by file and tensor.
    """
    expected: dict[str, tuple[int, ...]] | None = None
    for snapshot in track(store.snapshots, "check snapshots", len(store.snapshots), "file"):
        path = store.path(snapshot)
        shapes = {name: tuple(tensor.shape) for name, tensor in _finite_tensors(path)}
        expected = expected or shapes
        if shapes != expected:
            names = sorted(set(shapes.items()) ^ set(expected.items()))
            raise UserError(
                f"{path}: tensors differ from the other snapshots' in {names[0][0]}. "
                "All snapshots of a store are of one network."
            )


def _describe(path: Path) -> tuple[Snapshot, list[str]]:
    """What a file says it is, and its buffers."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["snapshot"])
        snapshot = Snapshot(
            facts["nimg"], facts["sigma_rel"], path.name, facts["halflife_nimg"], facts["rampup"]
        )
        buffers = list(facts["buffers"])
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be read ({error}). {WAY_OUT}") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise UserError(
            f"{path}: a tensor file, but no snapshot: its metadata do not say which "
            "average it holds. Write snapshots with `write_snapshot`."
        ) from None
    return snapshot, buffers


def _finite_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                if not torch.isfinite(tensor).all():
                    raise UserError(f"{path}: tensor {name}: not all values are finite. {WAY_OUT}")
                yield name, tensor
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be read ({error}). {WAY_OUT}") from None
