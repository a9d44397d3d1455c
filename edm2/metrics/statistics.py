"""Streamed mean and covariance of features, and their Fréchet distance."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.features.backbone import Detector
from edm2.metrics.frechet import frechet_distance
from edm2.params import UserError
from edm2.runtime.finite import require_finite

OF_INCEPTION = {"fd": "fid", "rfd": "rfid"}  # names of Fréchet distances of its features
INFINITY = "inf"  # in place of a sample count in a metric's name
DETECTOR_HINT = (
    "Its weights are damaged or its training diverged: train the classifier again (features.lr), or "
    "choose another detector (detector, detector_path)."
)


class Moments(Protocol):
    """Mean [D] and covariance [D, D] of features, in float64."""

    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def covariance(self) -> NDArray[np.float64]: ...
    @property
    def count(self) -> int | None: ...  # number of images; None: unknown
    @property
    def singular(self) -> bool: ...  # whether these are too few for a full-rank covariance


@dataclass
class Statistics:
    """Running count, mean [D] and scatter matrix [D, D] in float64 (Chan et al. 1979)."""

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def empty(cls, dims: int) -> "Statistics":
        return cls(0, np.zeros(dims), np.zeros((dims, dims)))

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> "Statistics":
        """Those of features [N, D]."""
        statistics = cls.empty(features.shape[1])
        statistics.update(features)
        return statistics

    def update(self, features: NDArray[np.floating]) -> None:
        """Add a batch of features [N, D]; N can be 0.

        Raises:
            ValueError: wrong shape.
        """
        batch = np.asarray(features, np.float64)
        if batch.ndim != 2 or batch.shape[1] != len(self.mean):
            raise ValueError(f"expected features of shape [N, {len(self.mean)}], got {batch.shape}")
        if len(batch) == 0:
            return
        mean = batch.mean(axis=0)
        centered = batch - mean
        self.merge(Statistics(len(batch), mean, centered.T @ centered))

    def merge(self, other: "Statistics") -> "Statistics":
        """Add the features of another stream; returns itself."""
        total = self.count + other.count
        if total == 0:
            return self
        shift = other.mean - self.mean
        self.scatter += other.scatter + np.outer(shift, shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total
        return self

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Unbiased covariance [D, D]."""
        return self.scatter / (self.count - 1)

    @property
    def singular(self) -> bool:
        """Whether there are no more samples than dimensions: then the covariance is singular."""
        return self.count <= len(self.mean)


def finite_features(detector: Detector, images: torch.Tensor) -> NDArray[np.float32]:
    """Features [N, D] of uint8 images [N, 3, H, W].

    Raises:
        NotFiniteError: a feature is not finite.
    """
    features: NDArray[np.float32] = detector.features(images).cpu().numpy()
    require_finite(features, f"features of the detector {detector.name}", DETECTOR_HINT)
    return features


def distance(a: Moments, b: Moments, allow_singular: bool = False) -> float:
    """Fréchet distance of two sets of images.

    Args:
        allow_singular: whether to accept singular covariances; a single image is never accepted.

    Raises:
        UserError: see `require_enough_images`.
    """
    for moments in (a, b):
        require_enough_images(moments, allow_singular)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def require_enough_images(moments: Moments, allow_singular: bool) -> None:
    """
    Raises:
        UserError: fewer than two images; or no more images than feature dimensions, so that the
            covariance is singular, unless `allow_singular`.
    """
    no_covariance = moments.count is not None and moments.count < 2
    if no_covariance or (moments.singular and not allow_singular):
        raise UserError(
            f"Fréchet distance of {moments.count} images: expected more images than the "
            f"{len(moments.mean)} feature dimensions, because the covariance is singular otherwise. Use "
            "more images, lower features.dims (with the classifier), or set evaluation.allow_singular."
        )


def metric_name(detector: str, samples: int, metric: str = "fd") -> str:
    """<metric>_<detector>_<samples>, thousands as k: fd_classifier_1k, recall_classifier_270.

    `rfd` is the Fréchet distance between images and their reconstructions. Only Fréchet distances of
    Inception features are called fid and rfid: fid_50k. Extrapolated to infinitely many
    samples it is fd_classifier_inf or fid_inf.
    """
    count = f"{samples // 1000}k" if samples % 1000 == 0 else str(samples)
    if metric == "fd_inf":
        metric, count = "fd", INFINITY
    if detector == "inception" and metric in OF_INCEPTION:
        return f"{OF_INCEPTION[metric]}_{count}"
    return f"{metric}_{detector}_{count}"
