"""The power-function averaging profile and its length.

The average at time t gives θ(τ) the weight (γ+1) τ^γ / t^{γ+1} for τ ≤ t (EDM2 eq. 3). Its length
σ_rel is the standard deviation of that profile over t (EDM2 eq. 4).
"""

import numpy as np
from numpy.typing import NDArray

LONGEST = 12**-0.5  # σ_rel of γ = 0, the plain mean of all of training


def gamma_to_sigma_rel(gamma: float) -> float:
    """σ_rel = (γ+1)^{1/2} (γ+2)^{-1} (γ+3)^{-1/2} (EDM2 eq. 123), for γ > 0."""
    if not gamma > 0:
        raise ValueError(f"γ = {gamma}: expected a value above 0")
    return float((gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5)


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """The exponent of a length: the positive root of γ³+7γ²+(16−σ⁻²)γ+(12−σ⁻²) (EDM2 alg. 2).

    Raises:
        ValueError: σ_rel is not within (0, 12^{-1/2} ≈ 0.2886).
    """
    if not 0 < sigma_rel < LONGEST:
        raise ValueError(f"EMA length σ_rel = {sigma_rel}: expected within (0, {LONGEST:.4f})")
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def beta(gamma: float, nimg: int, batch: int) -> float:
    """Weight of the old average in the update that ends at time `nimg`: (1 − Δt/t)^{γ+1}.

    EDM2 eq. 127; 0 in the first update, where the average becomes the parameters.
    """
    return float((1 - batch / nimg) ** (gamma + 1))


def response(sigma_rel: float, nimg: float, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The profile of length σ_rel that ends at `nimg`, at `times`: a density over time."""
    gamma = sigma_rel_to_gamma(sigma_rel)
    inside = (times >= 0) & (times <= nimg)
    return np.where(inside, (gamma + 1) / nimg * (np.clip(times, 0, nimg) / nimg) ** gamma, 0.0)
