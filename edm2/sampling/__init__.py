"""Sampling: from seeds to samples, with any callable denoiser."""

from edm2.sampling.solver import Churn, euler, heun

__all__ = ["Churn", "euler", "heun"]
