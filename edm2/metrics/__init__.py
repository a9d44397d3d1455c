"""Metrics of sets of images, computed from the features of any detector."""

from edm2.metrics.frechet import frechet_distance
from edm2.metrics.inception import inception_score
from edm2.metrics.kernel import kernel_distance
from edm2.metrics.neighbors import precision, recall

__all__ = ["frechet_distance", "inception_score", "kernel_distance", "precision", "recall"]
