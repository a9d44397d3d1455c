"""The metrics that params select, computed from collected features."""

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import cast

import numpy as np
import torch

from edm2.features.backbone import ClassDetector, Detector
from edm2.metrics.collection import Collection
from edm2.metrics.inception import inception_score
from edm2.metrics.jackknife import extrapolate
from edm2.metrics.kernel import kernel_distance
from edm2.metrics.neighbors import precision, recall
from edm2.metrics.reference import Reference
from edm2.metrics.statistics import Statistics, distance
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.params.evaluation import Evaluation, MetricName
from edm2.params.registry import implementation
from edm2.params.seams import GROUPS, METRICS, SPLITS


@dataclass(frozen=True)
class MetricValue:
    """A number and how certain it is.

    Attributes:
        reference: number of training images it compares with; None: none, or unknown.
        singular: whether a covariance comes from no more images than it has dimensions.
    """

    value: float
    reference: int | None
    standard_error: float | None = None
    singular: bool = False


@dataclass(frozen=True)
class MetricInputs:
    """What a metric is computed from.

    Attributes:
        generated: features of generated images, of which the first `count` are used.
        reference: features of the training images.
        detector: the detector that extracted the features.
        device: device of large matrix products.
    """

    generated: Collection
    reference: Reference
    count: int
    params: Evaluation
    detector: Detector
    device: torch.device

    @property
    def compared(self) -> int:
        """Number of training images that a metric of single features compares with: as many as generated,
        or all whose features are kept if these are fewer.
        """
        return min(self.count, len(self.reference.features))


def compute_metric(metric: MetricName, inputs: MetricInputs) -> MetricValue:
    """Compute one metric.

    Raises:
        UserError: too few generated or training images, or the value is not finite.
    """
    kind, minimum = METRICS[metric], inputs.params.min_samples(metric, inputs.generated.dims)
    if kind.uses_features and kind.compares and min(inputs.count, inputs.compared) < minimum:
        raise UserError(
            f"{metric} of {inputs.count} generated and {inputs.compared} training images: expected "
            f"at least {minimum} of each. Use more, or leave it out of evaluation.metrics."
        )
    value: MetricValue = implementation(kind.compute)(inputs)
    if not isfinite(value.value):
        raise NotFiniteError(
            f"{metric} of {inputs.count} images with the detector {inputs.detector.name} is "
            f"{value.value}: expected a finite number. Leave it out of evaluation.metrics, or find out "
            "which features it was computed from."
        )
    return value


def fd(inputs: MetricInputs) -> MetricValue:
    """The Fréchet distance; it compares with all training images."""
    moments, reference = inputs.generated.moments[inputs.count], inputs.reference
    value = distance(moments, reference, inputs.params.allow_singular)
    return MetricValue(value, reference.count, singular=moments.singular or reference.singular)


def fd_inf(inputs: MetricInputs) -> MetricValue:
    """The Fréchet distance at infinitely many samples; it compares with all training images."""
    parts = np.array_split(inputs.generated.features(inputs.count), GROUPS)
    groups, reference = [Statistics.of(part) for part in parts], inputs.reference
    limit = extrapolate(groups, reference, inputs.params.allow_singular)
    singular = inputs.generated.moments[inputs.count].singular or reference.singular
    return MetricValue(limit.value, reference.count, limit.standard_error, singular)


def kid(inputs: MetricInputs) -> MetricValue:
    """The kernel distance."""
    features = inputs.generated.features(inputs.count)
    real = inputs.reference.features[: inputs.compared]
    value, error = kernel_distance(features, real, inputs.device)
    return MetricValue(value, inputs.compared, standard_error=error)


def precision_of(inputs: MetricInputs) -> MetricValue:
    """Precision by nearest neighbors."""
    features = inputs.generated.features(inputs.count)
    real = inputs.reference.features[: inputs.compared]
    value = precision(features, real, inputs.params.neighbors, inputs.device)
    return MetricValue(value, inputs.compared)


def recall_of(inputs: MetricInputs) -> MetricValue:
    """Recall by nearest neighbors."""
    features = inputs.generated.features(inputs.count)
    real = inputs.reference.features[: inputs.compared]
    value = recall(features, real, inputs.params.neighbors, inputs.device)
    return MetricValue(value, inputs.compared)


def inception_score_of(inputs: MetricInputs) -> MetricValue:
    """The Inception score, which compares with no images; its error is that of the mean over splits."""
    features = torch.from_numpy(inputs.generated.features(inputs.count)).to(inputs.device)
    probabilities = cast(ClassDetector, inputs.detector).probabilities(features).cpu().numpy()
    value, deviation = inception_score(probabilities, SPLITS)
    return MetricValue(value, None, standard_error=deviation / sqrt(SPLITS))
