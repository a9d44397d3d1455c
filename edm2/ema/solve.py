"""The weighted sum of stored averages that is nearest to a target average (EDM2 alg. 3)."""

from collections.abc import Sequence

import numpy as np

from edm2.ema.profile import Array, Power, Profile, sigma_rel_to_gamma

PANELS, NODES = 40, 16  # of the numerical integration


def solve_weights(
    times: Sequence[float],
    sigma_rels: Sequence[float],
    target_times: Sequence[float],
    target_sigma_rels: Sequence[float],
    normalize: bool = True,
) -> Array:
    """Least-squares weights float64 [snapshots, targets] of power-function averages.

    Args:
        times, sigma_rels: time in images and EMA length of each stored average.
        target_times, target_sigma_rels: of each target. Averages stored after a target's time get
            weight 0: they contain parameters of the target's future.
        normalize: see `reconstruct`.

    Raises:
        ValueError: a length is impossible, a stored average ends at time 0, or a target's time is
            before every stored average.
    """
    stored = [Power(*pair) for pair in zip(times, sigma_rels, strict=True)]
    targets = [Power(*pair) for pair in zip(target_times, target_sigma_rels, strict=True)]
    weights, errors = solve_profiles(stored, targets)
    return normalized(weights, errors)[0] if normalize else weights


def solve_profiles(stored: Sequence[Profile], targets: Sequence[Power]) -> tuple[Array, Array]:
    """Weights float64 [snapshots, targets] (EDM2 eq. 128-132), and errors float64 [targets].

    The weights are those of Algorithm 3 as printed, not divided by their sum. The error is
    ‖Σ x_i p_i − p_r‖ / ‖p_r‖, of the response functions.

    Raises:
        ValueError: as `solve_weights`.
    """
    if any(profile.nimg <= 0 for profile in stored):
        raise ValueError("an average at time 0: expected times above 0. Leave it out.")
    weights, errors = np.zeros((len(stored), len(targets))), np.zeros(len(targets))
    gram, right_sides = gram_matrix(stored, stored), gram_matrix(stored, targets)
    ends = np.array([profile.nimg for profile in stored])
    for column, target in enumerate(targets):
        past = ends <= target.nimg
        if not past.any():
            raise ValueError(
                f"time {target.nimg:.0f} images: expected at or after the first average, "
                f"stored at {ends.min():.0f}"
            )
        a, b = gram[np.ix_(past, past)], right_sides[past, column]
        x = _solve(a, b)
        norm = gram_matrix([target], [target]).item()  # squared
        residual = x @ a @ x - 2 * x @ b + norm
        weights[past, column] = x
        errors[column] = np.sqrt(np.maximum(residual, 0.0) / norm)  # NaN stays NaN
    return weights, errors


def normalized(weights: Array, errors: Array) -> tuple[Array, Array]:
    """The least-squares weights divided by their sums, and the errors of these.

    Args:
        weights, errors: of `solve_profiles`, e = ‖Σ x p − p_r‖ / ‖p_r‖. As A x = b, weights s·x have
            the squared error e² + (1 − e²)(1 − s)².

    Raises:
        ValueError: a sum is not above 0.
    """
    sums = np.array([column.sum() for column in weights.T])  # each alone: the same rounding
    if not (sums > 0).all():
        raise ValueError(
            f"weights of snapshots that add up to {sums.min():.3g} cannot be divided by their sum. "
            "Take more snapshots, or do not normalize the weights."
        )
    power = errors**2
    return weights / sums, np.sqrt(power + (1 - power) * (1 - 1 / sums) ** 2)


def gram_matrix(rows: Sequence[Profile], columns: Sequence[Profile]) -> Array:
    """∫ p_a p_b dτ of all pairs, float64 [rows, columns]; in closed form if all are powers."""
    if all(isinstance(profile, Power) for profile in (*rows, *columns)):
        (t_a, g_a), (t_b, g_b) = (_powers(profiles) for profiles in (rows, columns))
        return inner_product(t_a[:, None], g_a[:, None], t_b[None, :], g_b[None, :])
    if rows is columns:  # symmetric
        upper = np.array(
            [
                [_integrate(a, b) if j >= i else 0.0 for j, b in enumerate(columns)]
                for i, a in enumerate(rows)
            ]
        )
        return np.asarray(upper + np.triu(upper, 1).T)
    return np.array([[_integrate(a, b) for b in columns] for a in rows])


def inner_product(t_a: Array, g_a: Array, t_b: Array, g_b: Array) -> Array:
    """∫ p_a p_b dτ of two power functions (EDM2 eq. 134); arrays broadcast."""
    earlier = t_a <= t_b
    ratio = np.where(earlier, t_a / t_b, t_b / t_a)
    exponent = np.where(earlier, g_b, g_a)
    later = np.maximum(t_a, t_b)
    result: Array = (g_a + 1) * (g_b + 1) * ratio**exponent / ((g_a + g_b + 1) * later)
    return result


def _integrate(a: Profile, b: Profile) -> float:
    """∫ p_a p_b dτ by Gauss-Legendre quadrature on panels that halve towards both ends."""
    end = min(a.nimg, b.nimg)
    halves = [0.5**k for k in range(1, PANELS)]
    edges = {0.0, end, *(end * half for half in halves), *(end * (1 - half) for half in halves)}
    edges |= {kink for kink in (a.kink, b.kink) if kink < end}
    limits = np.array(sorted(edges))
    nodes, shares = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(limits)[:, None] / 2
    times = limits[:-1, None] + half * (nodes + 1)
    return float((a.density(times) * b.density(times) * half * shares).sum())


def _solve(a: Array, b: Array) -> Array:
    """Solve A x = b with A scaled to unit diagonal, which improves its condition number."""
    scale = 1 / np.sqrt(np.diag(a))
    scaled = a * scale[:, None] * scale[None, :]
    solution: Array = np.linalg.lstsq(scaled, b * scale, rcond=None)[0] * scale
    return solution


def _powers(profiles: Sequence[Profile]) -> tuple[Array, Array]:
    """Times and exponents."""
    powers = [profile for profile in profiles if isinstance(profile, Power)]
    gammas = [sigma_rel_to_gamma(profile.sigma_rel) for profile in powers]
    return np.array([profile.nimg for profile in powers], np.float64), np.array(gammas)
