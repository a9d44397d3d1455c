"""The minimum of a metric among neighboring EMA lengths and guidance strengths, and its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edm2.metrics.minima import CONFIDENCE, coordinate, ema_length

Array = NDArray[np.float64]
Point = tuple[float, float]  # EMA length, guidance strength
PLACES = 201  # of an axis, at which a polynomial is evaluated
SMALL = 1e-12  # curvature


@dataclass(frozen=True)
class Estimate:
    """The minimum of the polynomial through all points of a window.

    Attributes:
        low, high: ends of the 95 % confidence intervals of both axes; infinite: beyond the window.
        half_widths: of intervals for an even curvature.
    """

    place: Point
    low: Point
    high: Point
    half_widths: Point


def estimate_curve(lengths: Sequence[float], strength: float, values: Array) -> Estimate:
    """The minimum over EMA length; the interval has all places at which the slope may be 0, by Student's t
    over blocks.

    Args:
        values: [lengths, blocks].
    """
    x, count = coordinate(lengths), values.shape[1]
    places = np.linspace(x[0], x[-1], PLACES)
    coefficients = np.linalg.solve(_powers(x - x[0], len(x)), values)
    curve = _powers(places - x[0], len(x)) @ coefficients.mean(axis=1)
    slopes = _slopes(places - x[0], len(x)) @ coefficients
    slope = slopes.mean(axis=1)
    error = _t(count) * slopes.std(axis=1, ddof=1) / np.sqrt(count)
    k = int(curve.argmin())
    falling = np.flatnonzero(slope[:k] < -error[:k])
    rising = k + 1 + np.flatnonzero(slope[k + 1 :] > error[k + 1 :])
    at = ema_length(places)
    at[0], at[-1] = lengths[0], lengths[-1]  # as they are, without rounding errors
    curvature = max(float(np.gradient(slope, places)[k]), SMALL)
    reach = ema_length(places[k] + error[k] / curvature * np.array([-1, 1]))
    return Estimate(
        place=(float(at[k]), strength),
        low=(float(at[falling[-1]]) if len(falling) else -np.inf, strength),
        high=(float(at[rising[0]]) if len(rising) else np.inf, strength),
        half_widths=(float(abs(reach - at[k]).max()), 0.0),
    )


def estimate_plane(
    lengths: Sequence[float], strengths: Sequence[float], values: Array, ends: tuple[Point, Point]
) -> Estimate:
    """The minimum over EMA length and guidance strength.

    Its error is that of the gradient there, over blocks, divided by the curvature: H⁻¹ Cov(g) H⁻¹.

    Args:
        values: [lengths, strengths, blocks].
        ends: those of the ranges of both axes, at which a minimum may be although the gradient is not 0.
    """
    x, w = coordinate(lengths), np.array(strengths)
    m, n = len(x), len(w)
    left, right = np.linalg.inv(_powers(x - x[0], m)), np.linalg.inv(_powers(w - w[0], n))
    c = np.einsum("ai,bj,ijk->abk", left, right, values)
    mean = c.mean(axis=2)
    places, weights = np.linspace(x[0], x[-1], PLACES), np.linspace(w[0], w[-1], PLACES)
    surface = _powers(places - x[0], m) @ mean @ _powers(weights - w[0], n).T
    i, j = np.unravel_index(int(surface.argmin()), surface.shape)
    dx, dw = places[i : i + 1] - x[0], weights[j : j + 1] - w[0]
    px, pw, sx, sw = _powers(dx, m)[0], _powers(dw, n)[0], _slopes(dx, m)[0], _slopes(dw, n)[0]
    gradients = np.stack([np.einsum("a,abk,b->k", sx, c, pw), np.einsum("a,abk,b->k", px, c, sw)])
    mixed = sx @ mean @ sw
    hessian = np.array(
        [[_bends(dx, m)[0] @ mean @ pw, mixed], [mixed, px @ mean @ _bends(dw, n)[0]]]
    )
    place = (
        (
            lengths[0]
            if i == 0
            else lengths[-1]
            if i == PLACES - 1
            else float(ema_length(places[i]))
        ),
        float(weights[j]),
    )
    on_end = [place[axis] in ends[axis] for axis in (0, 1)]
    half = _half_widths(gradients, hessian, on_end)
    reach = ema_length(places[i] + half[0] * np.array([-1, 1]))
    return Estimate(
        place=place,
        low=(float(reach[0]), place[1] - half[1]),
        high=(float(reach[1]), place[1] + half[1]),
        half_widths=(float(abs(reach - place[0]).max()), half[1]),
    )


def _half_widths(gradients: Array, hessian: Array, on_end: Sequence[bool]) -> Point:
    """Half of the widths of the intervals of both axes.

    At an end of a range the minimum of the polynomial is beyond it: what is left of the interval is within.
    """
    count = gradients.shape[1]
    t, means = _t(count), gradients.mean(axis=1)
    covariance = np.cov(gradients) / count
    half = np.full(2, np.inf)
    free = [axis for axis in (0, 1) if not on_end[axis]]
    part = hessian[np.ix_(free, free)]
    if free and np.linalg.eigvalsh(part).min() > SMALL:
        inverse = np.linalg.inv(part)
        spread = inverse @ covariance[np.ix_(free, free)] @ inverse
        half[free] = t * np.sqrt(np.diag(spread))
    for axis in (0, 1):
        if on_end[axis]:
            left = t * np.sqrt(covariance[axis, axis]) - abs(means[axis])
            half[axis] = max(0.0, left) / max(hessian[axis, axis], SMALL)
    return float(half[0]), float(half[1])


def _t(count: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))


def _powers(z: Array, terms: int) -> Array:
    """z⁰, z¹, …: [len(z), terms]."""
    return np.vander(z, terms, increasing=True)


def _slopes(z: Array, terms: int) -> Array:
    """The derivatives of `_powers`."""
    slopes = np.zeros((len(z), terms))
    slopes[:, 1:] = _powers(z, terms - 1) * np.arange(1, terms)
    return slopes


def _bends(z: Array, terms: int) -> Array:
    """The second derivatives of `_powers`."""
    bends = np.zeros((len(z), terms))
    bends[:, 2:] = _powers(z, terms - 2) * np.arange(2, terms) * np.arange(1, terms - 1)
    return bends
