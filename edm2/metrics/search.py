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
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edm2.metrics.minima import CONFIDENCE, coordinate, ema_length
from edm2.params.ema import PILOT_BLOCKS

Array = NDArray[np.float64]
SPACING = 0.35  # of the lengths, about; in the coordinate of `minima`
STRIDE = 3  # every third length is in the first round
WINDOW = 5
START, PILOT = 5, PILOT_BLOCKS  # seed blocks
GROWTH = 4
PLACES = 201  # within the window, at which slopes are tested
EXCLUDED = 0.99  # one-sided confidence at which a length is worse than another one

# (EMA lengths, n) to the values of the seed blocks 0 to n − 1, [lengths, n]; called again for old ones
Evaluate = Callable[[Sequence[float], int], Array]


@dataclass(frozen=True)
class Found:
    """Where the minimum is.

    Attributes:
        place: EMA length of the minimum, within the range.
        interval: 95 % confidence interval of `place`, within the range; no end is nearer than the tolerance.
        is_known: whether no end is further away than the tolerance.
        at_edge: whether the minimum is at an end of the range.
        lengths: the window of the last round.
        blocks: number of seed blocks of the last round.
    """

    place: float
    interval: tuple[float, float]
    is_known: bool
    at_edge: bool
    lengths: tuple[float, ...]
    blocks: int


@dataclass(frozen=True)
class Search:
    """The range of EMA lengths, and how well the place of the minimum is to be known.

    Attributes:
        tolerance: largest distance of the ends of the interval from the minimum.
        max_blocks: number of seed blocks after which the search ends without that; at least PILOT.
    """

    low: float
    high: float
    tolerance: float
    max_blocks: int

    @property
    def lengths(self) -> tuple[float, ...]:
        """All EMA lengths that the search may evaluate, rounded to five decimals."""
        low, high = coordinate([self.low, self.high]).tolist()
        count = max(WINDOW, 1 + round((high - low) / SPACING))
        inner = ema_length(np.linspace(low, high, count))[1:-1]
        return (self.low, *(round(float(length), 5) for length in inner), self.high)

    @property
    def first_lengths(self) -> tuple[float, ...]:
        """Those of the first round."""
        lengths = self.lengths
        return tuple(dict.fromkeys([*lengths[::STRIDE], lengths[-1]]))

    def evaluations(self, blocks: int) -> int:
        """How many a search makes that ends with so many blocks, with those of the best network.

        More, if the window moves or another length remains nearly as good: at most
        (1 + len(lengths)) · max_blocks.
        """
        return (WINDOW + 1) * blocks + START * (len(self.first_lengths) - WINDOW // STRIDE)

    def find(self, evaluate: Evaluate) -> Found:
        """The minimum, from what `evaluate` returns in each round."""
        first = self.first_lengths
        best = first[int(evaluate(first, START).mean(axis=1).argmin())]
        window, looks, seen = self._window(best), [START, PILOT], set()
        while True:
            blocks = looks[-1]
            seen.add((window, blocks))
            estimate = _Estimate.of(window, evaluate(window, blocks))
            rivals = self._rivals(window, looks, evaluate)
            target = min(rivals, key=rivals.__getitem__) if rivals else None
            moved = self._window(estimate.place if target is None or rivals[target] > 0 else target)
            if moved != window and (moved, blocks) not in seen:
                window = moved
                continue
            found = self._found(estimate, window, blocks, list(rivals))
            if found.is_known or blocks == self.max_blocks:
                return found
            looks.append(min(self.max_blocks, self._more(blocks, estimate)))

    def _window(self, place: float) -> tuple[float, ...]:
        """The lengths around `place`."""
        lengths = self.lengths
        nearest = int(abs(coordinate(lengths) - coordinate(place)).argmin())
        first = min(max(nearest - WINDOW // 2, 0), len(lengths) - WINDOW)
        return lengths[first : first + WINDOW]

    def _rivals(
        self, window: tuple[float, ...], looks: Sequence[int], evaluate: Evaluate
    ) -> dict[float, float]:
        """Lengths outside of the window that may be better than its best, and by how much they are worse.

        One that was excluded in a round before gets no more blocks.
        """
        others = [length for length in self.first_lengths if length not in window]
        inside = evaluate(window, looks[-1])
        best = inside[int(inside.mean(axis=1).argmin())]
        worse: dict[float, float] = {}
        for count in looks:
            if others:
                margins = evaluate(others, count) - best[:count]
                errors = margins.std(axis=1, ddof=1) / np.sqrt(count)
                low = margins.mean(axis=1) - float(stats.t.ppf(EXCLUDED, count - 1)) * errors
                others = [length for length, bound in zip(others, low, strict=True) if bound <= 0]
                worse = dict(zip(others, margins.mean(axis=1)[low <= 0].tolist(), strict=True))
        return worse

    def _found(
        self, estimate: "_Estimate", window: tuple[float, ...], blocks: int, rivals: list[float]
    ) -> Found:
        place = estimate.place
        low = self.low if estimate.low is None else estimate.low
        high = self.high if estimate.high is None else estimate.high
        low, high = min([low, *rivals]), max([high, *rivals])
        return Found(
            place=place,
            interval=(
                max(self.low, min(low, place - self.tolerance)),
                min(self.high, max(high, place + self.tolerance)),
            ),
            is_known=max(high - place, place - low) <= self.tolerance,
            at_edge=place in (self.low, self.high),
            lengths=window,
            blocks=blocks,
        )

    def _more(self, blocks: int, estimate: "_Estimate") -> int:
        """The number of blocks of the next round."""
        needed = blocks * (estimate.half_width / self.tolerance) ** 2
        return max(ceil(1.25 * blocks), min(GROWTH * blocks, ceil(min(needed, 1e9))))


@dataclass(frozen=True)
class _Estimate:
    """The minimum as one window shows it, by the polynomial through all its lengths.

    Attributes:
        low, high: ends of the confidence interval; None: beyond the window.
        half_width: of an interval for an even curvature.
    """

    place: float
    low: float | None
    high: float | None
    half_width: float

    @classmethod
    def of(cls, lengths: Sequence[float], values: Array) -> "_Estimate":
        """
        The interval has all places at which the slope may be 0 by Student's t over blocks.

        Args:
            values: [lengths, blocks].
        """
        x, count = coordinate(lengths), values.shape[1]
        places = np.linspace(x[0], x[-1], PLACES)
        powers = np.arange(len(x))
        coefficients = np.linalg.solve((x - x[0])[:, None] ** powers, values)
        z = (places - x[0])[:, None]
        slopes = (z ** np.maximum(powers - 1, 0) * powers) @ coefficients
        curve = (z**powers) @ coefficients.mean(axis=1)
        slope = slopes.mean(axis=1)
        error = slopes.std(axis=1, ddof=1) / np.sqrt(count)
        error *= float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        k = int(curve.argmin())
        falling, rising = np.flatnonzero(slope[:k] < -error[:k]), np.flatnonzero(slope > error)
        rising = rising[rising > k]
        at = ema_length(places)
        at[0], at[-1] = lengths[0], lengths[-1]  # as they are, without rounding errors
        curvature = max(float(np.gradient(slope, places)[k]), 1e-12)
        reach = ema_length(places[k] + error[k] / curvature * np.array([-1, 1]))
        return cls(
            place=float(at[k]),
            low=float(at[falling[-1]]) if len(falling) else None,
            high=float(at[rising[0]]) if len(rising) else None,
            half_width=float(abs(reach - at[k]).max()),
        )
