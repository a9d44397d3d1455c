"""The metrics that params name, on collected features."""

from dataclasses import dataclass
from math import sqrt
from typing import cast

import torch

from edm2.features.backbone import ClassDetector, Detector
from edm2.metrics.collection import Collection
from edm2.metrics.inception import inception_score
from edm2.metrics.kernel import kernel_distance
from edm2.metrics.neighbors import precision, recall
from edm2.metrics.reference import Reference
from edm2.metrics.statistics import distance
from edm2.params import UserError
from edm2.params.evaluation import Evaluation, MetricName
from edm2.params.registry import implementation
from edm2.params.seams import METRICS, SPLITS


@dataclass(frozen=True)
class MetricValue:
    """A number and how certain it is.

    Attributes:
        reference: how many training images it compares with; None: none, or unknown.
        singular: whether a covariance of no more images than dimensions went into it.
    """

    value: float
    reference: int | None
    standard_error: float | None = None
    singular: bool = False


@dataclass(frozen=True)
class MetricInputs:
    """What a metric is computed from.

    Attributes:
        generated: features of generated images, of which the first `count` take part.
        reference: features of the training images.
        detector: made the features.
        device: for large products.
    """

    generated: Collection
    reference: Reference
    count: int
    params: Evaluation
    detector: Detector
    device: torch.device

    @property
    def compared(self) -> int:
        """How many training images a metric of single features compares with: as many as generated,
        or all whose features are kept, where there are fewer.
        """
        return min(self.count, len(self.reference.features))


def compute_metric(metric: MetricName, inputs: MetricInputs) -> MetricValue:
    """
    Raises:
        UserError: too few generated or training images.
    """
    kind, minimum = METRICS[metric], inputs.params.min_samples(metric, inputs.generated.dims)
    if kind.uses_features and kind.compares and min(inputs.count, inputs.compared) < minimum:
        raise UserError(
            f"{metric} of {inputs.count} generated and {inputs.compared} training images: expected "
            f"at least {minimum} of each. Use more, or leave it out of evaluation.metrics."
        )
    value: MetricValue = implementation(kind.compute)(inputs)
    return value


def fd(inputs: MetricInputs) -> MetricValue:
    """The Fréchet distance; it compares with all training images."""
    moments, reference = inputs.generated.moments[inputs.count], inputs.reference
    value = distance(moments, reference, inputs.params.allow_singular)
    return MetricValue(value, reference.count, singular=moments.singular or reference.singular)


def kid(inputs: MetricInputs) -> MetricValue:
    """The kernel distance."""
    features = inputs.generated.features(inputs.count)
    others = inputs.reference.features[: inputs.compared]
    value, error = kernel_distance(features, others, inputs.device)
    return MetricValue(value, inputs.compared, standard_error=error)


def precision_of(inputs: MetricInputs) -> MetricValue:
    features = inputs.generated.features(inputs.count)
    others = inputs.reference.features[: inputs.compared]
    value = precision(features, others, inputs.params.neighbors, inputs.device)
    return MetricValue(value, inputs.compared)


def recall_of(inputs: MetricInputs) -> MetricValue:
    features = inputs.generated.features(inputs.count)
    others = inputs.reference.features[: inputs.compared]
    value = recall(features, others, inputs.params.neighbors, inputs.device)
    return MetricValue(value, inputs.compared)


def inception_score_of(inputs: MetricInputs) -> MetricValue:
    """The Inception score, which compares with no images; its error is that of the mean over splits."""
    features = torch.from_numpy(inputs.generated.features(inputs.count)).to(inputs.device)
    probabilities = cast(ClassDetector, inputs.detector).probabilities(features).cpu().numpy()
    value, deviation = inception_score(probabilities, SPLITS)
    return MetricValue(value, None, standard_error=deviation / sqrt(SPLITS))
