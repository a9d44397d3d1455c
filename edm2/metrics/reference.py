"""The reference that generated images are compared with: statistics of real images' features."""

import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edm2.features.backbone import Detector
from edm2.metrics.collection import Collection
from edm2.params import UserError
from edm2.runtime.files import replacing
from edm2.runtime.finite import require_finite
from edm2.runtime.limits import require_file, require_unpacked
from edm2.runtime.manifest import REBUILD_HINT, read_verified, write_manifest
from edm2.runtime.pickle_records import ForbiddenGlobalError, array, entries, read_records

NO_FEATURES = np.empty((0, 0), np.float32)
MOMENTS, FEATURES = "statistics.npz", "features.npy"
PICKLED = {"inception": "fid", "dinov2": "fd_dinov2"}  # keys in EDM2's files
COUNT = "num_images"
MAX_KEPT_FEATURES = 50_000  # images; metrics of pairs commonly use as many

# what NumPy raises for files that it cannot read
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    RuntimeError,
    BadZipFile,
    zlib.error,
)
ROUNDING = 1e-5  # rounding error of published float32 covariances, relative to the largest entry


@dataclass(frozen=True)
class Reference:
    """Moments of real images' features, and the features of some of these images.

    Args:
        mean, covariance: float64 [D] and [D, D].
        count: number of images behind the moments; None: unknown, for published moments.
        features: float32 [K, D], in a fixed random order; K = 0 for published moments.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None
    features: NDArray[np.float32]

    @property
    def singular(self) -> bool:
        """Whether the covariance is known to be singular: no more images than dimensions."""
        return self.count is not None and self.count <= len(self.mean)


NO_REFERENCE = Reference(np.empty(0), np.empty((0, 0)), None, NO_FEATURES)


def build_reference(collection: Collection) -> Reference:
    """The moments of all collected images, and the features that were kept.

    Args:
        collection: has exactly one of `counts`, the number of all images.
    """
    ((count, moments),) = collection.moments.items()
    features = collection.features(min(count, collection.kept))
    return Reference(moments.mean, moments.covariance, count, features)


def import_reference(path: Path, dims: int, detector: str) -> Reference:
    """Published moments: `mu` [D] and `sigma` [D, D] in an .npz, as EDM has them, or in a .pkl such a pair
    for each detector, as EDM2 has them. Nothing in a pickle is run.

    Args:
        dims: number of features, D.
        detector: `inception` or `dinov2`; chooses the pair of a .pkl.

    Raises:
        UserError: no such file, a file with other content, or arrays that are not moments of `dims` features.
    """
    if path.suffix == ".pkl":
        mean, covariance, count = _read_pickled(path, detector)
    else:
        (mean, covariance), count = _read_moments(path), None
    if (mean.shape, covariance.shape) != ((dims,), (dims, dims)):
        raise _invalid_file(
            path,
            f"mu [{dims}] and sigma [{dims}, {dims}]",
            f"{list(mean.shape)} and {list(covariance.shape)}, perhaps of another detector",
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise _invalid_file(path, "finite numbers", "infs or NaNs")
    rounding = ROUNDING * np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > rounding:
        raise _invalid_file(path, "a symmetric sigma", "an asymmetric one")
    covariance = (covariance + covariance.T) / 2
    if np.linalg.eigvalsh(covariance)[0] < -rounding:
        raise _invalid_file(path, "a covariance matrix as sigma", "one with negative eigenvalues")
    return Reference(mean, covariance, count, NO_FEATURES)


def save_reference(folder: Path, reference: Reference, **metadata: Any) -> None:
    """Write the reference to `folder`, and `metadata` into its manifest.

    The file of the moments has the format that `import_reference` reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MOMENTS) as partial, partial.open("wb") as file:
        np.savez(file, mu=reference.mean, sigma=reference.covariance)
    if len(reference.features):
        with replacing(folder / FEATURES) as partial, partial.open("wb") as file:
            np.save(file, reference.features)
    write_manifest(folder, count=reference.count, dims=len(reference.mean), **metadata)


def load_reference(folder: Path, detector: Detector, images: str | None) -> Reference:
    """Load the output of the `reference` stage; features stay on disk until they are used.

    Args:
        detector: the detector of the features that will be compared with it.
        images: fingerprint of the real images; None: any.

    Raises:
        UserError: it was computed with another detector, other weights or other images; a file is
            corrupted; or the moments are not finite.
    """
    metadata = read_verified(folder)
    expected = {"detector": detector.name, "weights": detector.fingerprint, "images": images}
    for name, value in expected.items():
        # None: unknown, for published moments
        if value is not None and metadata[name] not in (value, None):
            raise UserError(
                f"{folder}: expected {name} {value}, but it was computed with {metadata[name]}. "
                "Run `dvc repro -f -s reference`, then `dvc repro`."
            )
    mean, covariance = _read_moments(folder / MOMENTS)
    require_finite(mean, f"{folder / MOMENTS}: mu", REBUILD_HINT)
    require_finite(covariance, f"{folder / MOMENTS}: sigma", REBUILD_HINT)
    features = (
        np.load(folder / FEATURES, mmap_mode="c", allow_pickle=False)
        if FEATURES in metadata["files"]
        else NO_FEATURES
    )
    require_finite(features, f"{folder / FEATURES}", REBUILD_HINT)
    return Reference(mean, covariance, metadata["count"], features)


def read_member(path: Path, name: str) -> NDArray[Any]:
    """An array of an .npz file; nothing in it is run.

    Raises READ_ERRORS for a file that is damaged, or has a member that is far smaller than its array.
    """
    require_file(path)
    with ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        require_unpacked(member)
        with archive.open(member) as file:
            shape = _header(file)
            needed = prod(shape[0]) * shape[2].itemsize
        if needed > member.file_size:
            raise ValueError(f"{name}: {needed} bytes of numbers in {member.file_size}")
        with archive.open(member) as file:
            values: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return values


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in columns, and dtype."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    return readers[npy.read_magic(file)](file)


def _read_moments(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        mean, covariance = (
            np.asarray(read_member(path, name), np.float64) for name in ("mu", "sigma")
        )
    except READ_ERRORS as error:
        raise _invalid_file(path, "an .npz file with arrays mu and sigma", str(error)) from None
    return mean, covariance


def _read_pickled(
    path: Path, detector: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None]:
    """Mean, covariance and, where it is given, number of images."""
    key = PICKLED.get(detector, detector)
    try:
        content = entries(read_records(path))
        if key not in content:
            found = f"only those of {', '.join(map(str, content)) or 'none'}"
            raise _invalid_file(path, f"statistics of {detector} ({key})", found)
        pair = entries(content[key])
        mean, covariance = (np.asarray(array(pair[name]), np.float64) for name in ("mu", "sigma"))
        counts = [entries_of[COUNT] for entries_of in (pair, content) if COUNT in entries_of]
        count = int(array(counts[0])) if counts else None
    except UserError:
        raise
    except ForbiddenGlobalError as name:
        raise _invalid_file(
            path, "statistics alone", f"the name {name}, so nothing in it was run"
        ) from None
    except Exception as error:  # a damaged pickle may raise any exception
        reason = f"{type(error).__name__}: {error}"
        raise _invalid_file(path, "a .pkl file of EDM2's statistics", reason) from None
    return mean, covariance, count


def _invalid_file(path: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected {expected}, found {found}. Set evaluation.reference, or --reference, to "
        "a file of statistics made with this detector."
    )
