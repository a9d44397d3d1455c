"""A metric: coverage (Naeem et al. 2020), the fraction of real images with a generated one nearby."""

import torch

from edm2.metrics.registry import MetricInputs, MetricValue
from edm2.params.evaluation import Evaluation
from edm2.params.seams import METRICS, MetricKind


def coverage(inputs: MetricInputs) -> MetricValue:
    """Nearby: within the distance to the real image's k-th nearest other real image."""
    generated = torch.from_numpy(inputs.generated.features(inputs.count)).double()
    real = torch.from_numpy(inputs.reference.features[: inputs.compared].copy()).double()
    k = inputs.params.neighbors + 1  # the nearest real image is the image itself
    radii = torch.cdist(real, real).kthvalue(k, dim=1).values
    nearest = torch.cdist(real, generated).min(dim=1).values
    return MetricValue(float((nearest <= radii).double().mean()), inputs.compared)


def min_samples(evaluation: Evaluation, dims: int) -> int:
    return evaluation.neighbors + 1


METRICS.register("coverage", MetricKind(coverage, min_samples))
