"""One snapshot: an average of a training at one time, in a file of its own.

A snapshot is a safetensors file whose metadata have the time, the averaging profile and the names of
buffers. A folder of them is a store (`edm2.ema.store`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edm2.ema.profile import Power, Profile, Traditional, traditional_sigma_rel
from edm2.ema.tensorfile import NAMES, TensorReader
from edm2.params import UserError
from edm2.params.configs import Average
from edm2.params.errors import NotFiniteError
from edm2.runtime.files import replacing
from edm2.runtime.limits import parse_json


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
    stored = tensors_to_store(path, tensors, dtype, exact)
    with replacing(path) as temporary:
        save_file(stored, temporary, dict(metadata or {}))


def tensors_to_store(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    exact: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """Copies of the tensors on the CPU, as `write_tensors` writes them.

    Args:
        path: for errors.
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
    return stored


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
        NotFiniteError: a value of an average is not finite or not in the range of `dtype`.
        UserError: a value of a buffer is not, or a tensor's dtype cannot be stored.
    """
    try:
        metadata = snapshot_metadata(snapshot, buffers)
        write_tensors(folder / snapshot.file, tensors, dtype, metadata, buffers)
    except NotFiniteError as error:
        if error.tensor in buffers:
            raise UserError(
                f"{error} It is a buffer. If its values are meant to be infinite, register it with "
                "persistent=False, and compute it in the module's constructor."
            ) from None
        raise NotFiniteError(
            f"{error} The training diverged before {snapshot.nimg} images, or its values exceed the "
            "range of that dtype. Lower the learning rate, or lengthen its ramp-up, and train again. "
            f"The snapshots of earlier times are still in {folder}.",
            error.tensor,
        ) from None


def snapshot_metadata(snapshot: Snapshot, buffers: Sequence[str], **others: Any) -> dict[str, str]:
    """The metadata by which `read_snapshot` knows a file.

    All have one key, since safetensors writes several in random order.

    Args:
        others: kept beside them, as JSON.
    """
    content = {
        "nimg": snapshot.nimg,
        "sigma_rel": snapshot.sigma_rel,
        "halflife_nimg": snapshot.halflife_nimg,
        "rampup": snapshot.rampup,
        "buffers": list(buffers),
        **others,
    }
    return {"snapshot": json.dumps(content)}


def read_snapshot(path: Path) -> tuple[Snapshot, list[str]]:
    """What a file's metadata say it is, and the names of its buffers."""
    with closing(TensorReader(path)) as reader:
        text = reader.metadata.get("snapshot")
    try:
        metadata = parse_json(text or "")
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


def remove_snapshots_after(folder: Path, nimg: int) -> None:
    """Remove the snapshots of later times than the one at which the training continues."""
    for path in folder.glob("ema-*.safetensors"):
        if int(path.stem.rpartition("-")[2]) > nimg:
            path.unlink()
