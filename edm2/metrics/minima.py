"""Where a curve over EMA length has its minimum, and how certain that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import expit

Array = NDArray[np.float64]
CONFIDENCE = 0.95
LONGEST = 12**-0.5  # EMA length of the plain mean over a training
WIDTH = 1.2  # of the neighborhood of the minimum, in which the curve is taken as a cubic; of the coordinate
MIN_LENGTHS = 5  # distinct ones, for a cubic and its minimum
STEPS = 20  # until the neighborhood is around its own minimum


@dataclass(frozen=True)
class Minimum:
    """The minimum of a curve, of which lower is better.

    Attributes:
        place: EMA length of the minimum, within the range of the evaluated ones.
        interval: 95 % confidence interval of `place`, within the same range; None with fewer than two
            units.
        at_edge: whether the minimum is at the shortest or longest evaluated EMA length.
    """

    place: float
    interval: tuple[float, float] | None
    at_edge: bool


def coordinate(ema_lengths: ArrayLike) -> Array:
    """log(σ_rel / (1/√12 − σ_rel)), in which curves are nearly quadratic around their minimum.

    It is the logarithm of short lengths, and stretches those near the longest one, where averages begin to
    have the early training in them.
    """
    lengths = np.asarray(ema_lengths, np.float64)
    return np.log(lengths / (LONGEST - lengths))


def ema_length(coordinates: ArrayLike) -> Array:
    """The EMA lengths with these coordinates."""
    return LONGEST * expit(np.asarray(coordinates, np.float64))


def locate_minimum(
    lengths: Sequence[float], units: Sequence[int], values: Sequence[float]
) -> Minimum:
    """Fit a cubic in the `coordinate` of the EMA length to the neighborhood of the minimum.

    Not every unit needs to have every EMA length. Each has a level of its own in the fit, because the
    images of one seed block have their noise in common at all EMA lengths. The interval is that of a
    jackknife over units, with Student's t.

    Args:
        lengths, units, values: of each evaluation: its EMA length, the number of its unit (a seed block
            of a training), and the metric. float64 in effect, all of the same size.

    Raises:
        ValueError: fewer than MIN_LENGTHS EMA lengths, or a value that is not finite.
    """
    y = np.asarray(values, np.float64)
    names, numbers = np.unique(np.asarray(units), return_inverse=True)
    if len(np.unique(lengths)) < MIN_LENGTHS or not np.isfinite(y).all():
        raise ValueError(f"expected finite values at {MIN_LENGTHS} EMA lengths or more")
    x = coordinate(lengths)
    place = _vertex(x, numbers, y)
    interval = None
    if (count := len(names)) > 1:
        kept = [numbers != k for k in range(count)]
        others = np.array([_vertex(x[part], numbers[part], y[part], place) for part in kept])
        error = float(np.sqrt((count - 1) * others.var()))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
        low, high = np.clip([place - half, place + half], x.min(), x.max())
        interval = float(ema_length(low)), float(ema_length(high))
    at_edge = bool(np.isclose(place, x.min()) or np.isclose(place, x.max()))
    return Minimum(float(ema_length(place)), interval, at_edge)


def _vertex(x: Array, units: NDArray[np.int64], y: Array, start: float | None = None) -> float:
    """The place of the minimum within the range of x."""
    if start is None:
        start = _lowest(x, units, y)
    center = start
    for _ in range(STEPS):
        previous, center = center, _vertex_near(center, x, units, y)
        if abs(center - previous) < 1e-3:
            break
    return center


def _lowest(x: Array, units: NDArray[np.int64], y: Array) -> float:
    """Where the mean over units is lowest, corrected for the levels of those that are missing."""
    places, columns = np.unique(x, return_inverse=True)
    rows = np.arange(len(y))
    design = np.zeros((len(y), len(places) + units.max() + 1))
    design[rows, columns], design[rows, len(places) + units] = 1, 1
    levels = np.linalg.lstsq(design, y, rcond=None)[0][: len(places)]
    return float(places[levels.argmin()])


def _vertex_near(center: float, x: Array, units: NDArray[np.int64], y: Array) -> float:
    """The minimum of the cubic that fits around `center`, at most one width away."""
    width = WIDTH
    while len(np.unique(x[abs(x - center) < width])) < 5 and width < np.ptp(x):
        width *= 1.5
    z = (x - center) / width
    weight = np.sqrt(np.clip(1 - abs(z) ** 3, 0, None) ** 3)
    design = np.zeros((len(y), units.max() + 4))
    design[np.arange(len(y)), units] = 1
    design[:, -3:] = z[:, None] ** [1, 2, 3]
    *_, c1, c2, c3 = np.linalg.lstsq(weight[:, None] * design, weight * y, rcond=None)[0]
    discriminant = c2**2 - 3 * c1 * c3
    # the root of the derivative at which the second derivative is positive, without cancellation
    denominator = c2 + np.sqrt(max(discriminant, 0.0))
    step = -c1 / denominator if discriminant > 0 and denominator > 0 else -np.sign(c1)
    return float(np.clip(center + width * np.clip(step, -1, 1), x.min(), x.max()))
