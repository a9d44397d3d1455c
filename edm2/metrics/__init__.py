"""Distances between sets of images, on the features of any detector."""

from edm2.metrics.frechet import frechet_distance

__all__ = ["frechet_distance"]
