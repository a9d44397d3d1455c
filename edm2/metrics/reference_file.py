"""One file with the reference of any detectors: what `edm2 measure reference` writes.

An .npz with `mu` and `sigma`, as EDM has them, of the first detector; those of others are `dinov2/mu` and so
on. Beside them are the features that metrics of pairs need, and a description in JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from edm2.features.backbone import Detector
from edm2.metrics.reference import NO_FEATURES, READ_ERRORS, Reference, read_member
from edm2.params import UserError
from edm2.runtime.files import replacing
from edm2.runtime.finite import require_finite
from edm2.runtime.limits import parse_json, require_file

DESCRIPTION, VERSION = "edm2", 1
REMAKE = "Make it again with `edm2 measure reference`."


@dataclass(frozen=True)
class ReferenceFile:
    """A file that `write_reference_file` wrote.

    Attributes:
        count: number of images.
        resolution: their side in pixels, after resizing.
        detectors: SHA-256 of the weights of each detector, by its name.
    """

    path: Path
    count: int
    resolution: int
    detectors: Mapping[str, str]

    def read(self, detector: Detector, with_features: bool) -> Reference:
        """The reference of one detector.

        Raises:
            UserError: the file has none of this detector, or of other weights, or is damaged.
        """
        if detector.name not in self.detectors:
            raise UserError(
                f"{self.path}: expected features of the detector {detector.name}, found those of "
                f"{', '.join(self.detectors)}. Use --detector {','.join(self.detectors)}, or another file."
            )
        theirs = self.detectors[detector.name]
        if theirs != detector.fingerprint:
            raise UserError(
                f"{self.path}: its features of {detector.name} are of other weights (SHA-256 {theirs[:12]}…, "
                f"here {detector.fingerprint[:12]}…), so they cannot be compared. {REMAKE}"
            )
        prefix = _prefix(self.detectors, detector.name)
        mean, covariance = (self._array(prefix + name) for name in ("mu", "sigma"))
        features = self._array(f"{prefix}features") if with_features else NO_FEATURES
        dims = detector.dims
        if (mean.shape, covariance.shape) != ((dims,), (dims, dims)):
            raise _damaged(self.path, f"{detector.name}: moments of other than {dims} dimensions")
        return Reference(mean, covariance, self.count, features)

    def _array(self, name: str) -> NDArray[Any]:
        values = _read(self.path, name)
        require_finite(values, f"{self.path}: {name}", REMAKE)
        return values


def write_reference_file(
    path: Path, references: Mapping[str, Reference], weights: Mapping[str, str], resolution: int
) -> None:
    """Write the references of the same images by the names of their detectors; the file appears complete.

    Args:
        weights: SHA-256 of the weights of each detector.
        resolution: side of the images in pixels.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, reference in references.items():
        prefix = _prefix(references, name)
        arrays[f"{prefix}mu"], arrays[f"{prefix}sigma"] = reference.mean, reference.covariance
        arrays[f"{prefix}features"] = reference.features
    description = {
        "version": VERSION,
        "count": next(iter(references.values())).count,
        "resolution": resolution,
        "detectors": {name: weights[name] for name in references},
    }
    arrays[DESCRIPTION] = np.array(json.dumps(description))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def open_reference_file(path: Path) -> ReferenceFile | None:
    """The description of a file; None: it is an .npz of another program.

    Raises:
        UserError: not an .npz, damaged, or of another version of this format.
    """
    if DESCRIPTION not in _names(path):
        return None
    try:
        content = parse_json(str(_read(path, DESCRIPTION)))
        version = content.pop("version")
        if version == VERSION:
            return ReferenceFile(path, **content)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    raise UserError(
        f"{path}: its format has version {version}, expected {VERSION}: another edm2 wrote it. {REMAKE}"
    )


def _prefix(detectors: Mapping[str, Any] | Sequence[str], name: str) -> str:
    """Of the names of a detector's arrays; empty for the first one."""
    return "" if name == next(iter(detectors)) else f"{name}/"


def _names(path: Path) -> list[str]:
    try:
        require_file(path)
        if not is_zipfile(path):  # NumPy would name an unsafe way to load it
            raise ValueError("not an archive of arrays")
        with np.load(path, allow_pickle=False) as arrays:
            return list(arrays)
    except (*READ_ERRORS, AttributeError) as error:  # AttributeError: an .npy
        raise UserError(
            f"{path}: expected statistics in an .npz file, which this is not, or it is damaged ({error}). "
            "Download it or make it again."
        ) from None


def _read(path: Path, name: str) -> NDArray[Any]:
    try:
        return read_member(path, name)
    except READ_ERRORS as error:
        raise _damaged(path, f"{name}: {error}") from None


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: damaged ({reason}). {REMAKE}")
