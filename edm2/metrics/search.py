"""The search for the EMA length at which a metric is lowest: few images at many lengths, more near it.

The images of a seed block have most of their noise in common at all EMA lengths: it changes the slope of a
curve, but makes it hardly less smooth. So a few lengths show as much of a block as many, and a search needs
about as many blocks as a grid, but at WINDOW lengths. Its rounds, each a function of the results before it:

1. lengths over the whole range, on START blocks;
2. WINDOW neighboring lengths around the lowest one, on PILOT blocks; the window moves until the minimum is
   not near its ends;
3. the same lengths on as many blocks as the tolerance asks for, given how much those of the round before
   differ (Stein 1945, "A two-sample test for a linear hypothesis whose power is independent of the
   variance"), at most GROWTH times as many at once. So there are few looks at the interval, which would be
   short by chance in one of many.

Lengths of the first round that may be better than the window's best get as many blocks as the window; if they
are, the window moves there.

With several guidance strengths, the search is over lengths and strengths; the window has WINDOW_STRENGTHS of
the strengths, and the minimum is anywhere between the lowest and the highest one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edm2.metrics.minima import coordinate, ema_length
from edm2.metrics.window import Estimate, estimate_curve, estimate_plane
from edm2.params.ema import MIN_STRENGTHS, PILOT_BLOCKS

Array = NDArray[np.float64]
SPACING = 0.35  # of the lengths, about; in the coordinate of `minima`
STRIDE = 3  # every third length is in the first round
STRIDE_STRENGTHS = 2
WINDOW, WINDOW_STRENGTHS = 5, MIN_STRENGTHS
START, PILOT = 5, PILOT_BLOCKS  # seed blocks
GROWTH = 4
EXCLUDED = 0.99  # one-sided confidence at which a point is worse than another one

Point = tuple[float, float]  # EMA length, guidance strength
# (points, n) to the values of the seed blocks 0 to n − 1, [points, n]; called again for old ones
Evaluate = Callable[[Sequence[Point], int], Array]


@dataclass(frozen=True)
class Found:
    """Where the minimum is.

    Attributes:
        place: EMA length and guidance strength of the minimum, within their ranges.
        interval: 95 % confidence interval of the EMA length, within the range; no end is nearer than the
            tolerance.
        strengths: the same of the strength.
        is_known: whether no end is further away than the tolerance.
        at_edge: whether the EMA length is at an end of the range.
        window: the points of the last round.
        blocks: number of seed blocks of the last round.
    """

    place: Point
    interval: tuple[float, float]
    strengths: tuple[float, float]
    is_known: bool
    at_edge: bool
    window: tuple[Point, ...]
    blocks: int


@dataclass(frozen=True)
class Search:
    """The range of EMA lengths, and how well the place of the minimum is to be known.

    Attributes:
        tolerance: largest distance of the ends of the interval from the minimum; for a strength it is the
            same share of the range.
        max_blocks: number of seed blocks after which the search ends without that; at least PILOT.
        strengths: one guidance strength, or MIN_STRENGTHS or more, ascending.
    """

    low: float
    high: float
    tolerance: float
    max_blocks: int
    strengths: tuple[float, ...] = (1.0,)

    @property
    def lengths(self) -> tuple[float, ...]:
        """All EMA lengths that the search may evaluate before the last one, rounded to five decimals."""
        low, high = coordinate([self.low, self.high]).tolist()
        count = max(WINDOW, 1 + round((high - low) / SPACING))
        inner = ema_length(np.linspace(low, high, count))[1:-1]
        return (self.low, *(round(float(length), 5) for length in inner), self.high)

    @property
    def first_points(self) -> list[Point]:
        """Those of the first round."""
        lengths = dict.fromkeys([*self.lengths[::STRIDE], self.high])
        strengths = dict.fromkeys([*self.strengths[::STRIDE_STRENGTHS], self.strengths[-1]])
        return list(product(lengths, strengths))

    def evaluations(self, blocks: int) -> int:
        """How many a search makes that ends with so many blocks, with those of the best network.

        More, if the window moves or another point remains nearly as good: at most `most_evaluations`.
        """
        window = WINDOW * min(len(self.strengths), WINDOW_STRENGTHS)
        shared = len(set(self._window(self.first_points[0])) & set(self.first_points))
        return (window + 1) * blocks + START * (len(self.first_points) - shared)

    @property
    def most_evaluations(self) -> int:
        return (1 + len(self.lengths) * len(self.strengths)) * self.max_blocks

    def find(self, evaluate: Evaluate) -> Found:
        """The minimum, from what `evaluate` returns in each round."""
        first = self.first_points
        best = first[int(evaluate(first, START).mean(axis=1).argmin())]
        window, looks = self._window(best), [START, PILOT]
        seen: set[tuple[tuple[Point, ...], int]] = set()
        while True:
            blocks = looks[-1]
            seen.add((window, blocks))
            estimate = self._estimate(window, evaluate(window, blocks))
            rivals = self._rivals(window, looks, evaluate)
            moved = self._moved(window, estimate.place, rivals)
            if moved != window and (moved, blocks) not in seen:
                window = moved
                continue
            found = self._found(estimate, window, blocks, list(rivals))
            if found.is_known or blocks == self.max_blocks:
                return found
            looks.append(min(self.max_blocks, self._more(blocks, estimate)))

    @property
    def _tolerances(self) -> Point:
        spread = self.strengths[-1] - self.strengths[0]
        return self.tolerance, self.tolerance * spread / (self.high - self.low)

    def _window(self, place: Point) -> tuple[Point, ...]:
        """The points around `place`."""
        lengths = _around(self.lengths, coordinate(self.lengths) - coordinate(place[0]), WINDOW)
        away = np.array(self.strengths) - place[1]
        return tuple(product(lengths, _around(self.strengths, away, WINDOW_STRENGTHS)))

    def _estimate(self, window: Sequence[Point], values: Array) -> Estimate:
        lengths, strengths = (sorted(set(axis)) for axis in zip(*window, strict=True))
        if len(strengths) == 1:
            return estimate_curve(lengths, strengths[0], values)
        shape = len(lengths), len(strengths), values.shape[1]
        return estimate_plane(lengths, strengths, values.reshape(shape), self._ends)

    @property
    def _ends(self) -> tuple[Point, Point]:
        return (self.low, self.high), (self.strengths[0], self.strengths[-1])

    def _moved(
        self, window: tuple[Point, ...], place: Point, rivals: dict[Point, float]
    ) -> tuple[Point, ...]:
        """The window around the minimum, or around a point outside that is lower."""
        rival = min(rivals, key=rivals.__getitem__, default=None)
        if rival is not None and rivals[rival] <= 0:
            return self._window(rival)
        around = self._window(place)
        lengths = sorted({length for length, _ in window})
        same_strengths = {w for _, w in around} == {w for _, w in window}
        return window if lengths[1] <= place[0] <= lengths[-2] and same_strengths else around

    def _rivals(
        self, window: tuple[Point, ...], looks: Sequence[int], evaluate: Evaluate
    ) -> dict[Point, float]:
        """Points outside of the window that may be better than its best, and by how much they are worse.

        One that was excluded in a round before gets no more blocks.
        """
        others = [point for point in self.first_points if point not in window]
        inside = evaluate(window, looks[-1])
        best = inside[int(inside.mean(axis=1).argmin())]
        worse: dict[Point, float] = {}
        for count in looks:
            if others:
                margins = evaluate(others, count) - best[:count]
                errors = margins.std(axis=1, ddof=1) / np.sqrt(count)
                low = margins.mean(axis=1) - float(stats.t.ppf(EXCLUDED, count - 1)) * errors
                others = [point for point, bound in zip(others, low, strict=True) if bound <= 0]
                worse = dict(zip(others, margins.mean(axis=1)[low <= 0].tolist(), strict=True))
        return worse

    def _found(
        self, estimate: Estimate, window: tuple[Point, ...], blocks: int, rivals: list[Point]
    ) -> Found:
        intervals, known = [], True
        for axis, (first, last) in enumerate(self._ends):
            place, tolerance = estimate.place[axis], self._tolerances[axis]
            others = [rival[axis] for rival in rivals]
            low = max(first, min([estimate.low[axis], *others]))
            high = min(last, max([estimate.high[axis], *others]))
            known = known and max(high - place, place - low) <= tolerance
            intervals.append(
                (max(first, min(low, place - tolerance)), min(last, max(high, place + tolerance)))
            )
        return Found(
            place=estimate.place,
            interval=intervals[0],
            strengths=intervals[1],
            is_known=known,
            at_edge=estimate.place[0] in (self.low, self.high),
            window=window,
            blocks=blocks,
        )

    def _more(self, blocks: int, estimate: Estimate) -> int:
        """The number of blocks of the next round."""
        ratio = max(
            half / tolerance
            for half, tolerance in zip(estimate.half_widths, self._tolerances, strict=True)
            if tolerance
        )
        return max(ceil(1.25 * blocks), ceil(blocks * min(GROWTH, ratio**2)))


def _around(values: tuple[float, ...], away: Array, count: int) -> tuple[float, ...]:
    """The `count` neighboring values around the one that is least away."""
    count = min(count, len(values))
    first = min(max(int(abs(away).argmin()) - count // 2, 0), len(values) - count)
    return values[first : first + count]
