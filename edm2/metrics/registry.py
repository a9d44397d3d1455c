"""The metrics that params can select, computed from collected features."""

from dataclasses import dataclass
from math import sqrt
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.features.backbone import ClassDetector, Detector
from edm2.metrics.collection import Collection
from edm2.metrics.inception import inception_score
from edm2.metrics.kernel import kernel_distance
from edm2.metrics.neighbors import precision, recall
from edm2.metrics.reference import Reference
from edm2.metrics.statistics import distance
from edm2.params import UserError
from edm2.params.evaluation import SPLITS, Evaluation, MetricName


@dataclass(frozen=True)
class MetricValue:
    """A metric's value, its standard error if known, and how many training images it compares with."""

    value: float
    reference: int | None
    standard_error: float | None = None
    singular: bool = False  # whether it uses a covariance of no more images than dimensions


def compute_metric(
    metric: MetricName,
    generated: Collection,
    reference: Reference,
    count: int,
    params: Evaluation,
    detector: Detector,
    device: torch.device,
) -> MetricValue:
    """A metric of the first `count` generated images.

    The Fréchet distance compares them with all training images. Kernel distance, precision and recall
    use pairs of images and compare with the same number of training images, or with all whose features
    are kept if those are fewer. The Inception score uses no training images.

    Args:
        detector: the detector of the features; a `ClassDetector` for the Inception score.

    Raises:
        UserError: too few generated or training images.
    """
    if metric == "fd":
        ours = generated.moments[count]
        value = distance(ours, reference, params.allow_singular)
        return MetricValue(value, reference.count, singular=ours.singular or reference.singular)
    if metric == "is":
        return _score(generated.features(count), cast(ClassDetector, detector), device)
    others = min(count, len(reference.features))
    least = params.min_samples(metric, generated.dims)
    if min(count, others) < least:
        raise UserError(
            f"{metric} of {count} generated and {others} training images: expected at "
            f"least {least} of each. Use more, or leave it out of "
            "evaluation.metrics."
        )
    a, b = generated.features(count), reference.features[:others]
    if metric == "kid":
        value, error = kernel_distance(a, b, device)
        return MetricValue(value, others, standard_error=error)
    share = precision if metric == "precision" else recall
    return MetricValue(share(a, b, params.neighbors, device), others)


def _score(
    features: NDArray[np.float32], detector: ClassDetector, device: torch.device
) -> MetricValue:
    """The Inception score, with the standard error of its mean over the splits."""
    probabilities = detector.probabilities(torch.from_numpy(features).to(device)).cpu().numpy()
    value, deviation = inception_score(probabilities, SPLITS)
    return MetricValue(value, None, standard_error=deviation / sqrt(SPLITS))
