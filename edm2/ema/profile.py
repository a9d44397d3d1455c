"""Averaging profiles and their length.

The power-function average at time t gives θ(τ) the weight (γ+1) τ^γ / t^{γ+1} for τ ≤ t (EDM2
eq. 3). The length σ_rel of any average is the standard deviation of its profile over t (EDM2 eq. 4).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_SIGMA_REL = 12**-0.5  # of γ = 0, the plain mean over the whole training


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
    if not 0 < sigma_rel < MAX_SIGMA_REL:
        raise ValueError(
            f"EMA length σ_rel = {sigma_rel}: expected within (0, {MAX_SIGMA_REL:.4f})"
        )
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def beta(gamma: float, nimg: int, batch: int) -> float:
    """Weight of the old average in the update that ends at time `nimg`: (1 − Δt/t)^{γ+1}.

    EDM2 eq. 127. It is 0 in the first update, after which the average equals the parameters.
    """
    return float((1 - batch / nimg) ** (gamma + 1))


def traditional_beta(nimg: int, batch: int, halflife_nimg: float, rampup: float) -> float:
    """Weight of the old average in the traditional update that ends at time `nimg`.

    Args:
        halflife_nimg: images in which a parameter's share in the average falls to one half.
        rampup: upper limit of the half-life, relative to the training time so far.
    """
    return float(0.5 ** (batch / min(halflife_nimg, rampup * nimg)))


def traditional_sigma_rel(nimg: float, halflife_nimg: float, rampup: float) -> float:
    """Length of the traditional average at time `nimg`, in the limit of small steps.

    While the half-life is capped, the profile is a power function of exponent ln 2 / rampup − 1.
    After that the ages are exponentially distributed, and the power function's share decays. At time 0
    there is only one point in time, and the length is 0.
    """
    if nimg == 0:
        return 0.0
    k, rate = math.log(2) / rampup, math.log(2) / halflife_nimg
    start = min(nimg, halflife_nimg / rampup)  # where the cap ends
    x = rate * (nimg - start)
    left = math.exp(-x)  # share of the power function
    early, early_square = k / (k + 1) * start, k / (k + 2) * start**2  # its moments of the time τ
    mean = (1 - left * (1 + x)) / rate + left * (nimg - early)
    square = (2 - left * (x * x + 2 * x + 2)) / rate**2
    square += left * (nimg**2 - 2 * nimg * early + early_square)
    return math.sqrt(square - mean**2) / nimg


@dataclass(frozen=True)
class Power:
    """The power-function profile of an average: its length, and the time at which it ends."""

    nimg: float
    sigma_rel: float

    def density(self, times: Array) -> Array:
        """Weight per image of the parameters at `times`, each between 0 and the end."""
        gamma = sigma_rel_to_gamma(self.sigma_rel)
        return np.asarray((gamma + 1) / self.nimg * (times / self.nimg) ** gamma)

    @property
    def kink(self) -> float:
        """Where the density is not smooth; a power function is smooth up to its end."""
        return self.nimg


@dataclass(frozen=True)
class Traditional:
    """The profile of a traditional EMA: exponential in age; a power function where capped."""

    nimg: float
    halflife_nimg: float
    rampup: float

    def density(self, times: Array) -> Array:
        rate, k = math.log(2) / self.halflife_nimg, math.log(2) / self.rampup
        late = rate * np.exp(-rate * (self.nimg - times))
        left = math.exp(-rate * (self.nimg - self.kink))
        early = left * k / self.kink * (times / self.kink) ** (k - 1)
        return np.where(times > self.kink, late, early)

    @property
    def kink(self) -> float:
        """The time at which the half-life stops growing; the end if it never does."""
        return min(self.nimg, self.halflife_nimg / self.rampup)


Profile = Power | Traditional


def response(profile: Profile, times: Array) -> Array:
    """The profile as a density over training time, at any `times`: 0 before 0 and after its end."""
    inside = (times >= 0) & (times <= profile.nimg)
    return np.where(inside, profile.density(np.clip(times, 0, profile.nimg)), 0.0)
