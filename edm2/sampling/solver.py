"""Solvers of the probability-flow ODE dx/dσ = (x − D(x; σ))/σ."""

from collections.abc import Callable
from itertools import pairwise

import torch

# denoise(x [N, C, H, W], sigma [N]) → denoised x
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def noise_levels(steps: int, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """σ_0 = sigma_max > … > σ_{steps−1} = sigma_min, then 0 (EDM eq. 5): float64 [steps + 1].

    Raises:
        ValueError: fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"steps = {steps}: expected at least 2, sigma_max and sigma_min")
    index = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + index * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


@torch.no_grad()
def heun(
    denoise: Denoise,
    noise: torch.Tensor,
    steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> torch.Tensor:
    """EDM's deterministic second-order sampler (EDM alg. 1): 2·steps − 1 evaluations.

    For each noise level: take the slope d = (x − D)/σ, step to the next level, take the slope
    there too, and step again from the start with the mean of both. The last step, to σ = 0, is
    Euler's.

    Args:
        denoise: denoise(x, sigma) for x float32 [N, C, H, W] and sigma float32 [N].
        noise: standard normal float32 [N, C, H, W].

    Returns:
        samples float32 [N, C, H, W].
    """
    levels = noise_levels(steps, sigma_min, sigma_max, rho).tolist()

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (x - denoise(x, x.new_full((len(x),), sigma))) / sigma

    x = noise * levels[0]
    for sigma, following in pairwise(levels):
        d = slope(x, sigma)
        proposal = x + (following - sigma) * d
        if following == 0:
            return proposal
        x = x + (following - sigma) * 0.5 * (d + slope(proposal, following))
    return x
