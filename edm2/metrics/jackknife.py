"""The Fréchet distance at infinitely many samples, and its standard error, by a delete-group jackknife."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edm2.metrics.frechet import frechet_distance
from edm2.metrics.statistics import Moments, Statistics, require_enough_images

MIN_GROUPS = 5  # fewer leave too few degrees of freedom for an interval of use
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Extrapolation:
    """An estimate of the Fréchet distance at infinitely many samples.

    Attributes:
        value: the estimate; it can be negative where the distance is about 0.
        standard_error: of `value`, from the differences between groups.
        groups: number of groups.
        finite: the distance of all samples without extrapolation.
    """

    value: float
    standard_error: float
    groups: int
    finite: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval, by Student's t with as many degrees of freedom as groups, less 1."""
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.groups - 1)) * self.standard_error
        return self.value - half, self.value + half


def extrapolate(
    groups: Sequence[Statistics], reference: Moments, allow_singular: bool = False
) -> Extrapolation:
    """The Fréchet distance to `reference` in the limit of infinitely many samples.

    The distance of N samples exceeds that limit by about c / N (Chong and Forsyth 2020, "Effectively Unbiased
    FID and Inception Score and where to find them"), who fit a line over 1 / N. With K groups, the
    distances of all samples and of all but one group lie on that line; where it meets 1 / N = 0 is
    the jackknife's estimate, K f(all) − (K − 1) mean_k f(all but k), whose standard error the same
    distances give (Quenouille 1956, Tukey 1958). The finite number of images of the reference is not
    corrected for.

    Args:
        groups: moments of disjoint groups of samples, of about equal size.

    Raises:
        ValueError: fewer than MIN_GROUPS groups.
        UserError: a set of samples is too small; see `require_enough_images`.
    """
    values, finite = pseudovalues(groups, reference, allow_singular)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return Extrapolation(float(values.mean()), error, len(values), finite)


def pseudovalues(
    groups: Sequence[Statistics], reference: Moments, allow_singular: bool = False
) -> tuple[NDArray[np.float64], float]:
    """What each group says of the distance at infinitely many samples, [groups], and that of all samples.

    The mean is the estimate of `extrapolate`; K f(all) − (K − 1) f(all but k) for each group k.

    Raises:
        ValueError, UserError: as `extrapolate`.
    """
    count = len(groups)
    if count < MIN_GROUPS:
        raise ValueError(f"expected at least {MIN_GROUPS} groups of samples, got {count}")
    every = _distance(groups, reference, allow_singular)
    left_out = np.array(
        [
            _distance([*groups[:k], *groups[k + 1 :]], reference, allow_singular)
            for k in range(count)
        ]
    )
    return count * every - (count - 1) * left_out, every


def _distance(groups: Sequence[Statistics], reference: Moments, allow_singular: bool) -> float:
    merged = Statistics.empty(len(reference.mean))
    for group in groups:
        merged.merge(group)
    for moments in (merged, reference):
        require_enough_images(moments, allow_singular)
    return frechet_distance(merged.mean, merged.covariance, reference.mean, reference.covariance)
