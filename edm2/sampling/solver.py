"""Solvers of the probability-flow ODE dx/dσ = (x − D(x; σ))/σ, and of its stochastic variant."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

# denoise(x [N, C, H, W], sigma [N]) → denoised x
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MAX_GAMMA = math.sqrt(2) - 1  # a step at most doubles the variance (EDM alg. 2)
FLOAT32 = torch.finfo(torch.float32)


@dataclass(frozen=True)
class Churn:
    """Fresh noise added before each step, which the solver then removes (EDM alg. 2).

    Args:
        amount: S_churn ≥ 0, spread evenly over the steps; 0 is the deterministic sampler.
        noise: noise(step) → standard normal of the samples' shape; step counts from 0. It is called
            only for steps that add noise.
        interval: noise levels S_tmin ≤ σ ≤ S_tmax at which noise is added; None: all.
        scale: S_noise, standard deviation of the fresh noise; 1 is exact, slightly more compensates
            for networks that remove too much noise.
    """

    amount: float
    noise: Callable[[int], torch.Tensor]
    interval: tuple[float, float] | None = None
    scale: float = 1.0

    def sigma_hat(self, sigma: float, steps: int) -> float:
        """The noise level t̂ = σ + γσ at which a step from `sigma` starts.

        Levels are compared with the interval in float32, so that 80 is in [0.05, 80], although eq. 5
        computes it as 80.00000000000003.
        """
        if self.interval is not None:
            low, high = map(np.float32, self.interval)
            if not low <= np.float32(sigma) <= high:
                return sigma
        return sigma + min(self.amount / steps, MAX_GAMMA) * sigma

    def add_noise(
        self, x: torch.Tensor, sigma: float, step: int, steps: int
    ) -> tuple[torch.Tensor, float]:
        """x at noise level `sigma` → x̂ with noise added, and its noise level."""
        sigma_hat = self.sigma_hat(sigma, steps)
        if sigma_hat == sigma:
            return x, sigma
        std = self.scale * math.sqrt(sigma_hat**2 - sigma**2)
        return x + std * self.noise(step).to(x), sigma_hat


def noise_levels(steps: int, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """σ_0 = sigma_max > … > σ_{steps−1} = sigma_min, then 0 (EDM eq. 5): float64 [steps + 1].

    Raises:
        ValueError: fewer than two steps; not 0 < sigma_min < sigma_max within the range of float32,
            the dtype that denoisers get; or `rho` that is not positive and finite.
    """
    if steps < 2:
        raise ValueError(f"steps = {steps}: expected at least 2, for sigma_max and sigma_min")
    if not FLOAT32.tiny <= sigma_min < sigma_max <= FLOAT32.max:
        raise ValueError(
            f"sigma_min = {sigma_min}, sigma_max = {sigma_max}: expected 0 < sigma_min < sigma_max, "
            f"both in the range of float32, {FLOAT32.tiny:.2g} to {FLOAT32.max:.2g}"
        )
    if not 0 < rho < math.inf:
        raise ValueError(f"rho = {rho}: expected a positive finite number")
    index = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + index * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def heun(
    denoise: Denoise,
    noise: torch.Tensor,
    steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    *,
    churn: Churn | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """EDM's second-order sampler (EDM alg. 1; with `churn` alg. 2): 2·steps − 1 evaluations.

    For each noise level: compute the slope d = (x − D)/σ, step to the next level, compute the slope
    there, and repeat the step with the mean of both slopes. The last step, to σ = 0, is an Euler
    step.

    Args:
        denoise: denoise(x, sigma) → denoised x, for x float32 [N, C, H, W] and sigma float32 [N].
        noise: standard normal [N, C, H, W].
        steps: number of noise levels above 0, at least 2.
        sigma_min, sigma_max: lowest and highest noise level, 0 < sigma_min < sigma_max.
        rho: spacing of the noise levels (EDM eq. 5), positive.
        churn: fresh noise; None: the sample depends on `noise` alone.
        dtype: of x between evaluations, float32 or float64; `denoise` gets float32 in both cases.

    Returns:
        samples float32 [N, C, H, W].

    Raises:
        ValueError: see `noise_levels`.
    """
    levels = noise_levels(steps, sigma_min, sigma_max, rho).tolist()
    return _solve(denoise, noise, levels, churn, dtype, second_order=True)


def euler(
    denoise: Denoise,
    noise: torch.Tensor,
    steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    *,
    churn: Churn | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Euler's first-order method: `heun` without the second slope; `steps` evaluations."""
    levels = noise_levels(steps, sigma_min, sigma_max, rho).tolist()
    return _solve(denoise, noise, levels, churn, dtype, second_order=False)


@torch.no_grad()
def _solve(
    denoise: Denoise,
    noise: torch.Tensor,
    levels: list[float],
    churn: Churn | None,
    dtype: torch.dtype,
    second_order: bool,
) -> torch.Tensor:
    """Step down the noise levels, the last of which is 0; `second_order`: with Heun's correction."""

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        sigmas = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
        return (x - denoise(x.float(), sigmas)) / sigma

    x = noise.to(dtype) * levels[0]
    for step, (sigma, next_sigma) in enumerate(pairwise(levels)):
        if churn is not None:
            x, sigma = churn.add_noise(x, sigma, step, len(levels) - 1)
        d = slope(x, sigma)
        x_euler = x + (next_sigma - sigma) * d
        if second_order and next_sigma > 0:
            x = x + (next_sigma - sigma) * 0.5 * (d + slope(x_euler, next_sigma))
        else:
            x = x_euler
    return x.float()
