"""From seeds to samples, with any callable denoiser."""

from edm2.sampling.solver import heun

__all__ = ["heun"]
