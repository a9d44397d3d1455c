"""A sampler: DPM-Solver++(2M) (Lu et al. 2022), one evaluation per step."""

import math
from itertools import pairwise

import torch

from edm2.params.seams import SAMPLERS
from edm2.sampling.solver import Churn, Denoise, noise_levels


@torch.no_grad()
def dpm_2m(
    denoise: Denoise,
    noise: torch.Tensor,
    steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    *,
    churn: Churn | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """In steps of h = ln(σ/σ'): x' = (σ'/σ)·x + (1 − e^{−h})·D̃, D̃ extrapolated from two D."""
    levels = noise_levels(steps, sigma_min, sigma_max, rho).tolist()
    x, previous, previous_h = noise.to(dtype) * levels[0], None, 0.0
    for sigma, next_sigma in pairwise(levels):
        sigmas = torch.full((len(x),), sigma, device=x.device)
        denoised = denoise(x.float(), sigmas).to(dtype)
        if next_sigma == 0:
            return denoised.float()
        h, extrapolated = math.log(sigma / next_sigma), denoised
        if previous is not None:
            extrapolated = denoised + (denoised - previous) * h / (2 * previous_h)
        x = next_sigma / sigma * x - math.expm1(-h) * extrapolated
        previous, previous_h = denoised, h
    raise AssertionError("noise levels end with 0")


SAMPLERS.register("dpm_2m", dpm_2m)
