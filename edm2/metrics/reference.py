"""What generated images are compared with: moments, and some features, of the real ones."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edm2.features.backbone import Detector
from edm2.metrics.collection import Collection
from edm2.params import UserError
from edm2.runtime.manifest import read_manifest, write_manifest

NO_FEATURES = np.empty((0, 0), np.float32)
MOMENTS, FEATURES = "statistics.npz", "features.npy"
KEPT = 50_000  # images whose features are kept: as many as measures of pairs commonly take
HARMED = (
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
ROUNDING = 1e-5  # of published covariances, which may be float32, relative to their largest entry


@dataclass(frozen=True)
class Reference:
    """Moments of real images' features, and the features of the first of them.

    Args:
        mean, covariance: float64 [D] and [D, D].
        count: of the images behind the moments; None where a published file does not tell.
        features: float32 [K, D], in a random order that is always the same; published: none.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None
    features: NDArray[np.float32]

    @property
    def singular(self) -> bool:
        """Whether there are known to be no more images than dimensions."""
        return self.count is not None and self.count <= len(self.mean)


def reference_of(collection: Collection) -> Reference:
    """Of collected images: moments of them all, features of those that were kept."""
    ((count, moments),) = collection.moments.items()
    kept = collection.features(min(count, collection.kept))
    return Reference(moments.mean, moments.covariance, count, kept)


def import_reference(path: Path, dims: int) -> Reference:
    """Published moments in the format of EDM: an .npz with `mu` [D] and `sigma` [D, D].

    Raises:
        UserError: no such file, a pickle in it, or arrays that are no moments of `dims` features.
    """
    mean, covariance = _read(path)
    if (mean.shape, covariance.shape) != ((dims,), (dims, dims)):
        raise _bad(
            path,
            f"mu [{dims}] and sigma [{dims}, {dims}]",
            f"{list(mean.shape)} and {list(covariance.shape)}: of another detector?",
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise _bad(path, "finite numbers", "infs or NaNs")
    rounding = ROUNDING * np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > rounding:
        raise _bad(path, "a symmetric sigma", "one that is not")
    covariance = (covariance + covariance.T) / 2
    if np.linalg.eigvalsh(covariance)[0] < -rounding:
        raise _bad(path, "a covariance in sigma", "a matrix with negative variances")
    return Reference(mean, covariance, None, NO_FEATURES)


def save_reference(folder: Path, reference: Reference, **facts: Any) -> None:
    """Write it to `folder`, with a manifest that has `facts` as well.

    The moments' file is in the format that `import_reference` reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / MOMENTS, mu=reference.mean, sigma=reference.covariance)
    if len(reference.features):
        np.save(folder / FEATURES, reference.features)
    write_manifest(folder, count=reference.count, dims=len(reference.mean), **facts)


def load_reference(folder: Path, detector: Detector, images: str) -> Reference:
    """Read what the stage `reference` wrote; features stay on disk until they are used.

    Args:
        detector: that it is to be compared with.
        images: fingerprint of the real images.

    Raises:
        UserError: it was made with another detector, with other weights or of other images; or a
            file is harmed.
    """
    facts = read_manifest(folder)
    ours = {"detector": detector.name, "weights": detector.fingerprint, "images": images}
    for name, value in ours.items():
        if facts[name] not in (value, None):  # a published file tells neither weights nor images
            raise UserError(
                f"{folder}: expected {name} {value}, and it was made with {facts[name]}. "
                "Say `dvc repro -f -s reference`, then `dvc repro`."
            )
    mean, covariance = _read(folder / MOMENTS)
    features = (
        np.load(folder / FEATURES, mmap_mode="c", allow_pickle=False)
        if FEATURES in facts["files"]
        else NO_FEATURES
    )
    return Reference(mean, covariance, facts["count"], features)


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
    except HARMED as error:
        raise _bad(path, "an .npz file with arrays mu and sigma", str(error)) from None
    return mean, covariance


def _bad(path: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected {expected}, found {found}. Set evaluation.reference to the "
        "file that belongs to evaluation.detector, or to null."
    )
