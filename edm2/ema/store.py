"""The snapshot store: averages of a training on disk, with their times and lengths."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edm2.params import UserError
from edm2.params.diffusion import Average
from edm2.runtime.files import replacing
from edm2.runtime.manifest import WAY_OUT, read_manifest
from edm2.runtime.progress import track


@dataclass(frozen=True, order=True)
class Snapshot:
    """One stored average: length `sigma_rel`, ending at time `nimg` (images)."""

    nimg: int
    sigma_rel: float
    average: Average
    file: str

    @classmethod
    def of(cls, nimg: int, sigma_rel: float, average: Average = "power") -> "Snapshot":
        kind = "" if average == "power" else f"{average}-"
        file = f"ema-{kind}{sigma_rel!r}-{nimg:012d}.safetensors"
        return cls(nimg, sigma_rel, average, file)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
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
        save_file(stored, temporary)


def write_snapshots(folder: Path, averages: Mapping[Snapshot, Mapping[str, torch.Tensor]]) -> None:
    """Write one file per average, in 16 bits."""
    for snapshot, tensors in averages.items():
        write_tensors(folder / snapshot.file, tensors, torch.float16)


def remove_snapshots_after(folder: Path, nimg: int) -> None:
    """Undo snapshots of a time that training has been rolled back behind."""
    for path in folder.glob("ema-*.safetensors"):
        if int(path.stem.rpartition("-")[2]) > nimg:
            path.unlink()


def snapshots_in(folder: Path) -> list[Snapshot]:
    """The snapshots that `write_snapshots` left, by time and length."""
    found = []
    for path in folder.glob("ema-*.safetensors"):
        described, _, nimg = path.stem.removeprefix("ema-").rpartition("-")
        sigma_rel = described.removeprefix("traditional-")
        average: Average = "power" if sigma_rel == described else "traditional"
        found.append(Snapshot.of(int(nimg), float(sigma_rel), average))
    return sorted(found)


class SnapshotStore:
    """An opened store. Opening checks every file's size and checksum."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            UserError: no manifest, no snapshots, a missing, truncated or corrupt file.
        """
        self.folder = folder
        self.facts = read_manifest(folder)
        self.snapshots = sorted(Snapshot(**entry) for entry in self.facts["snapshots"])
        if not self.snapshots:
            raise UserError(f"{folder}: holds no snapshots. Run the stage that makes it.")

    @property
    def traditional(self) -> bool:
        """Whether it holds the one traditional average of a training, of a length fixed then."""
        return all(snapshot.average == "traditional" for snapshot in self.snapshots)

    @property
    def end(self) -> int:
        """Time of the latest snapshot."""
        return self.snapshots[-1].nimg

    def open(self, snapshot: Snapshot) -> "safe_open":
        """The file of a snapshot; tensors are read when asked for."""
        return safe_open(self.folder / snapshot.file, framework="pt")


def describe(snapshots: list[Snapshot]) -> list[dict[str, object]]:
    """For a manifest."""
    return [asdict(snapshot) for snapshot in snapshots]


def check_snapshots(folder: Path, snapshots: list[Snapshot]) -> None:
    """Open every snapshot: all of the same tensors and shapes, all values finite.

    Raises:
        UserError: by file and tensor.
    """
    expected: dict[str, tuple[int, ...]] | None = None
    for snapshot in track(snapshots, "check snapshots", len(snapshots), "file"):
        path = folder / snapshot.file
        shapes = {name: tuple(tensor.shape) for name, tensor in _finite_tensors(path)}
        expected = expected or shapes
        if shapes != expected:
            names = sorted(set(shapes.items()) ^ set(expected.items()))
            raise UserError(f"{path}: tensors differ from the other snapshots' in {names[0][0]}. "
                            "All snapshots of a store are of one network.")  # fmt: skip


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
