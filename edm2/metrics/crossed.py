"""The error of a mean over trainings and seed blocks, and which of the two it comes from.

All trainings are evaluated on the same seed blocks, so both are crossed, and both are samples: of trainings
and of images. With the difference δ that is asked for,

    d[s, b] = δ + u_s + v_b + e_sb,    Var(mean of d) = Var(u) / S + Var(v) / B + Var(e) / (S B),

estimated by the mean squares of the analysis of variance (Searle, Casella and McCulloch 1992, "Variance
Components"), with the degrees of freedom of Satterthwaite (1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
POOLING = 0.25


@dataclass(frozen=True)
class Estimate:
    """Estimated variances and their degrees of freedom, arrays of one shape."""

    variance: Array
    degrees: Array

    @classmethod
    def of(cls, variance: ArrayLike, degrees: ArrayLike) -> "Estimate":
        return cls(*np.broadcast_arrays(np.asarray(variance), np.asarray(degrees, np.float64)))


def combined(parts: Sequence[Estimate], subtracted: Sequence[Estimate] = ()) -> Estimate:
    """A sum of independent mean squares, with Satterthwaite's degrees of freedom.

    Degrees are at least the fewest of a part that is added: what is subtracted can make them as low as 0.
    """
    variance = np.asarray(sum(part.variance for part in parts))
    variance = variance - sum(part.variance for part in subtracted)
    every = [*parts, *subtracted]
    scale = np.asarray(sum(part.variance**2 / part.degrees for part in every))
    certain = np.array(sum(part.degrees for part in parts))  # where all of them are 0
    degrees = np.divide(variance**2, scale, out=certain, where=scale > 0)
    fewest = np.min([part.degrees for part in parts], axis=0)
    return Estimate(variance, np.maximum(degrees, fewest))


@dataclass(frozen=True)
class Components:
    """Variances of the difference of one pair of trainings on one seed block.

    Attributes:
        trainings: between trainings, on infinitely many images.
        samples: between seed blocks, the same for all trainings.
        both: between seed blocks, different in each training.
        groups: 1 for differences of paired trainings; 2 for trainings that are not paired, whose variances
            are added.
    """

    trainings: float
    samples: float
    both: float
    groups: int

    def of_mean(self, trainings: ArrayLike, blocks: int) -> Estimate:
        """The variance of the mean over so many trainings (of each group) and seed blocks, with the
        degrees of freedom that `crossed_mean` would have.

        With one block it contains the variance between blocks, which an interval then cannot.
        """
        counts = np.asarray(trainings, np.float64)
        freedom, error = self.groups * (counts - 1), self.both / (counts * blocks)
        seeds = Estimate.of(self.trainings / counts + error, freedom)
        if blocks == 1 or not self.samples:
            return Estimate(seeds.variance + self.samples / blocks, freedom)
        between = Estimate.of(self.samples / blocks + error, blocks - 1)
        total = combined([seeds, between], [Estimate.of(error, freedom * (blocks - 1))])
        return Estimate(total.variance, np.minimum(total.degrees, freedom))


@dataclass(frozen=True)
class CrossedMean:
    """Means over trainings and seed blocks; all arrays have the shape of the leading dimensions.

    Attributes:
        value: the mean.
        error: its variance, at least that from the trainings alone, with at most their degrees of freedom.
        spread: standard deviation over trainings of their means over blocks.
        trainings, samples, both: see `Components`; NaN with one seed block.
    """

    value: Array
    error: Estimate
    spread: Array
    trainings: Array
    samples: Array
    both: Array


def crossed_mean(groups: Sequence[Array]) -> CrossedMean:
    """The mean of one group, or the sum of the means of two, of other trainings on the same blocks.

    The variance between blocks is taken as 0 unless a test of it has p ≤ 25 %, as is usual for pooling
    (Bancroft and Han 1983): two or three blocks estimate it so badly that intervals would otherwise be
    far too wide. With a single block the error is that over trainings, on the images of this block.

    Args:
        groups: [..., trainings, seed blocks], at least two trainings each.
    """
    blocks = groups[0].shape[-1]
    value = np.asarray(sum(group.mean((-2, -1)) for group in groups))
    variances = [group.mean(-1).var(-1, ddof=1) for group in groups]
    counts = [group.shape[-2] for group in groups]
    seeds = combined([Estimate.of(v / n, n - 1) for v, n in zip(variances, counts, strict=True)])
    spread = np.sqrt(sum(variances))
    if blocks == 1:
        unknown = np.full(value.shape, np.nan)
        return CrossedMean(value, seeds, spread, unknown, unknown, unknown)
    both = [_interaction(group) for group in groups]
    errors = [
        Estimate.of(v / (n * blocks), (n - 1) * (blocks - 1))
        for v, n in zip(both, counts, strict=True)
    ]
    means = np.asarray(sum(group.mean(-2) for group in groups))
    between = Estimate.of(means.var(-1, ddof=1) / blocks, blocks - 1)
    return CrossedMean(
        value,
        _with_blocks(seeds, between, combined(errors)),
        spread,
        np.clip(sum(variances) - sum(both) / blocks, 0, None),
        np.clip(blocks * (between.variance - combined(errors).variance), 0, None),
        np.asarray(sum(both)),
    )


def _with_blocks(seeds: Estimate, between: Estimate, error: Estimate) -> Estimate:
    """`seeds`, and the variance between blocks (`between` less `error`) where there is any."""
    ratio = np.full(error.variance.shape, np.inf)
    np.divide(between.variance, error.variance, out=ratio, where=error.variance > 0)
    significance = stats.f.sf(ratio, between.degrees, error.degrees)
    differ = (between.variance > error.variance) & (significance <= POOLING)
    total = combined([seeds, between], [error])
    return Estimate(
        np.where(differ, total.variance, seeds.variance),
        np.where(differ, np.minimum(total.degrees, seeds.degrees), seeds.degrees),
    )


def _interaction(group: Array) -> Array:
    """Variance of what is neither the training's nor the block's."""
    trainings, blocks = group.shape[-2:]
    rest = group - group.mean(-1, keepdims=True) - group.mean(-2, keepdims=True)
    rest = rest + group.mean((-2, -1), keepdims=True)
    return np.asarray((rest**2).sum((-2, -1)) / ((trainings - 1) * (blocks - 1)))
