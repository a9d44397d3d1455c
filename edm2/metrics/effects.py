"""What a change to training does to a metric: its size, its uncertainty, and how much more would settle it.

A training is one sample: networks that differ in nothing but the seed differ in quality, and evaluating
them on more images does not show by how much. So intervals are over trainings, and a single pair of
trainings has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
SIGNIFICANCE = 0.05
POWER = 0.8
MAX_TRAININGS = 1000  # pairs; whether more would settle something is not computed


@dataclass(frozen=True)
class Effect:
    """The difference of a metric of which lower is better, change minus base.

    Attributes:
        difference: mean over trainings; negative: an improvement.
        trainings: number of pairs; of unpaired trainings, the smaller number of the two.
        paired: whether trainings with the same seed are compared.
        spread: standard deviation of the difference of a single pair. NaN with one training.
        standard_error: of `difference`; NaN with one training.
        degrees: degrees of freedom of `standard_error`; 0 with one training.
        comparisons: number of comparisons that the p-value is corrected for; see `adjust`.
        p_value: two-sided, of no difference, corrected for `comparisons`. NaN with one training.
    """

    difference: float
    trainings: int
    paired: bool
    spread: float
    standard_error: float
    degrees: float
    comparisons: int
    p_value: float

    @property
    def settled(self) -> bool:
        """Whether there is a difference, at a level of 5 % for all comparisons together."""
        return self.p_value <= SIGNIFICANCE

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the difference, of this comparison alone."""
        if not self.degrees:
            return None
        half = float(stats.t.ppf(1 - SIGNIFICANCE / 2, self.degrees)) * self.standard_error
        return self.difference - half, self.difference + half

    @property
    def improvement(self) -> float | None:
        """Probability that one more pair of trainings shows an improvement, from these."""
        if not self.degrees:
            return None
        scale = float(np.hypot(self.spread, self.standard_error))
        return float(stats.t.cdf(_ratio(-self.difference, scale), self.degrees))

    @property
    def more_trainings(self) -> int | None:
        """How many further pairs settle a difference of this size with a probability of 80 %.

        0 if it is settled; None if that is unknown, or more than MAX_TRAININGS in all.
        """
        if self.settled:
            return 0
        if not self.degrees or self.difference == 0:
            return None
        counts = np.arange(self.trainings + 1, MAX_TRAININGS + 1)
        degrees = (counts - 1) * (1 if self.paired else 2)
        shift = abs(self.difference) / self.spread * np.sqrt(counts)
        critical = stats.t.ppf(1 - SIGNIFICANCE / self.comparisons / 2, degrees)
        enough = counts[stats.nct.sf(critical, degrees, shift) >= POWER]
        return int(enough[0]) - self.trainings if len(enough) else None


def effect(base: Mapping[int, float], change: Mapping[int, float]) -> Effect:
    """The effect of a change, from trainings without and with it.

    Trainings with the same seed are paired (Student's t of their differences): they have the order of
    images, noise and noise levels in common, which makes the variance of the difference smaller. Seeds
    that only one of both has are left out, unless fewer than two are common; then all trainings are
    compared unpaired (Welch's t), if there are two of each.

    Args:
        base, change: value of the metric by seed.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    for values in (base, change):
        if not values or not np.isfinite(list(values.values())).all():
            raise ValueError(f"expected finite values of at least one training, got {dict(values)}")
    common = sorted(base.keys() & change.keys())
    if len(common) >= 2 or (common and min(len(base), len(change)) < 2):
        differences = np.array([change[seed] - base[seed] for seed in common])
        return _paired(differences)
    return _unpaired(np.array(list(base.values())), np.array(list(change.values())))


def _paired(differences: Array) -> Effect:
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return _of_single_trainings(mean, paired=True)
    spread = float(differences.std(ddof=1))
    return _effect(mean, count, True, spread, spread / np.sqrt(count), count - 1)


def _unpaired(base: Array, change: Array) -> Effect:
    count, mean = min(len(base), len(change)), float(change.mean() - base.mean())
    if count < 2:
        return _of_single_trainings(mean, paired=False)
    variances = np.array([base.var(ddof=1), change.var(ddof=1)])
    counts = np.array([len(base), len(change)])
    parts = variances / counts
    error = float(np.sqrt(parts.sum()))
    shares = parts / parts.sum() if error else np.array([0.5, 0.5])
    degrees = float(1 / (shares**2 / (counts - 1)).sum())  # Welch and Satterthwaite
    return _effect(mean, count, False, float(np.sqrt(variances.sum())), error, degrees)


def _of_single_trainings(mean: float, paired: bool) -> Effect:
    unknown = float("nan")
    return Effect(mean, 1, paired, unknown, unknown, 0, 1, unknown)


def _effect(
    mean: float, count: int, paired: bool, spread: float, error: float, degrees: float
) -> Effect:
    p_value = float(2 * stats.t.sf(_ratio(abs(mean), error), degrees))
    return Effect(mean, count, paired, spread, error, degrees, 1, p_value)


def _ratio(value: float, scale: float) -> float:
    """value / scale; infinite where a scale of 0 says that all differences are equal."""
    if scale or not value:
        return value / (scale or 1)
    return float(np.copysign(np.inf, value))


def adjust(effects: Sequence[Effect]) -> list[Effect]:
    """The effects with p-values that are corrected for being several comparisons (Holm 1979).

    The probability that any of those without an effect is called settled is then at most 5 %. Effects of
    single trainings have no p-value and are not counted.
    """
    tested = [k for k, each in enumerate(effects) if each.degrees]
    tested.sort(key=lambda k: effects[k].p_value)
    adjusted, highest = list(effects), 0.0
    for place, k in enumerate(tested):
        comparisons = len(tested) - place
        highest = max(highest, min(1.0, comparisons * effects[k].p_value))
        adjusted[k] = replace(effects[k], comparisons=comparisons, p_value=highest)
    return adjusted
