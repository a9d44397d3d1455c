"""Which weighted sum of stored averages comes nearest to a wanted average (EDM2 alg. 3)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edm2.ema.profile import sigma_rel_to_gamma

Array = NDArray[np.float64]


def solve_weights(
    times: Sequence[float],
    sigma_rels: Sequence[float],
    target_times: Sequence[float],
    target_sigma_rels: Sequence[float],
) -> Array:
    """Least-squares weights float64 [snapshots, targets] (EDM2 eq. 128-132).

    Args:
        times, sigma_rels: time in images and EMA length of each stored average.
        target_times, target_sigma_rels: of each wanted average. Averages stored after a target's
            time hold what that target may not know: they get weight 0.

    Raises:
        ValueError: a length is impossible, or a target lies before every stored average.
    """
    a_time, a_gamma = _profiles(times, sigma_rels)
    b_time, b_gamma = _profiles(target_times, target_sigma_rels)
    weights = np.zeros((len(a_time), len(b_time)))
    for column, (time, gamma) in enumerate(zip(b_time, b_gamma, strict=True)):
        past = a_time <= time
        if not past.any():
            raise ValueError(
                f"time {time:.0f} images: expected at or after the first average, "
                f"stored at {float(a_time.min()):.0f}"
            )
        t, g = a_time[past], a_gamma[past]
        products = inner_product(t[:, None], g[:, None], t[None, :], g[None, :])
        wanted = inner_product(t, g, time, gamma)
        weights[past, column] = _solve(products, wanted)
    return weights


def relative_error(
    weights: Array,
    times: Sequence[float],
    sigma_rels: Sequence[float],
    target_time: float,
    target_sigma_rel: float,
) -> float:
    """‖Σ x_i p_i − p_r‖ / ‖p_r‖ of the response functions, for one column of weights."""
    t, g = _profiles(times, sigma_rels)
    (time,), (gamma,) = _profiles([target_time], [target_sigma_rel])
    products = inner_product(t[:, None], g[:, None], t[None, :], g[None, :])
    own = float(inner_product(time, gamma, time, gamma))
    square = weights @ products @ weights - 2 * weights @ inner_product(t, g, time, gamma) + own
    return float(np.sqrt(max(0.0, float(square)) / own))


def inner_product(t_a: Array, g_a: Array, t_b: Array, g_b: Array) -> Array:
    """∫ p_a p_b dτ of two profiles (EDM2 eq. 134); arrays broadcast."""
    earlier = t_a <= t_b
    ratio = np.where(earlier, t_a / t_b, t_b / t_a)
    exponent = np.where(earlier, g_b, g_a)
    later = np.maximum(t_a, t_b)
    result: Array = (g_a + 1) * (g_b + 1) * ratio**exponent / ((g_a + g_b + 1) * later)
    return result


def _solve(products: Array, wanted: Array) -> Array:
    """Solve A x = b with A scaled to unit diagonal, which tames its condition number."""
    scale = 1 / np.sqrt(np.diag(products))
    scaled = products * scale[:, None] * scale[None, :]
    solution: Array = np.linalg.lstsq(scaled, wanted * scale, rcond=None)[0] * scale
    return solution


def _profiles(times: Sequence[float], sigma_rels: Sequence[float]) -> tuple[Array, Array]:
    gammas = [sigma_rel_to_gamma(sigma_rel) for sigma_rel in sigma_rels]
    return np.asarray(times, np.float64), np.asarray(gammas, np.float64)
