"""What a change to training does to a metric: its size, its uncertainty, and how much more would settle it.

Trainings that differ in nothing but the seed differ in quality, and evaluating them on more images does not
show by how much: so intervals are over trainings, and over the seed blocks of their images where there are
several (`edm2.metrics.crossed`). A single pair of trainings has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from edm2.metrics.crossed import Components, crossed_mean

Array = NDArray[np.float64]
SIGNIFICANCE = 0.05
POWER = 0.8
MAX_TRAININGS = 1000  # pairs; whether more would settle something is not computed


@dataclass(frozen=True)
class Effect:
    """The difference of a metric of which lower is better, change minus base.

    Attributes:
        difference: mean over trainings and seed blocks; negative: an improvement.
        trainings: number of pairs; of unpaired trainings, the smaller number of the two.
        blocks: number of seed blocks.
        paired: whether trainings with the same seed are compared.
        spread: standard deviation of the difference of a single pair, on these blocks. NaN with one
            training.
        components: where that comes from; None with one training or one seed block.
        standard_error: of `difference`; NaN with one training. With one seed block it is the error on the
            images of this block: how much other images would change is not known.
        degrees: degrees of freedom of `standard_error`; 0 with one training.
        comparisons: number of comparisons that the p-value is corrected for; see `adjust`.
        p_value: two-sided, of no difference, corrected for `comparisons`. NaN with one training.
    """

    difference: float
    trainings: int
    blocks: int
    paired: bool
    spread: float
    components: Components | None
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
    def sample_share(self) -> float | None:
        """The part of the variance of `difference` that more samples would remove; more trainings remove
        the rest. From 0 to 1; None with one training or one seed block, which do not show it.
        """
        if self.components is None:
            return None
        total = float(self.components.of_mean(self.trainings, self.blocks).variance)
        return 1 - self.components.trainings / self.trainings / total if total else 0.0

    @property
    def improvement(self) -> float | None:
        """Probability that one more pair of trainings shows an improvement, from these."""
        if not self.degrees:
            return None
        scale = float(np.hypot(self.spread, self.standard_error))
        return float(stats.t.cdf(_ratio(-self.difference, scale), self.degrees))

    @property
    def more_trainings(self) -> int | None:
        """How many further pairs settle a difference of this size with a probability of 80 %, on as many
        seed blocks.

        0 if it is settled; None if that is unknown, or more than MAX_TRAININGS in all.
        """
        if self.settled:
            return 0
        if not self.degrees or self.difference == 0:
            return None
        counts = np.arange(self.trainings + 1, MAX_TRAININGS + 1)
        mean = self._source.of_mean(counts, self.blocks)
        shift = abs(self.difference) / np.sqrt(mean.variance)
        critical = stats.t.ppf(1 - SIGNIFICANCE / self.comparisons / 2, mean.degrees)
        enough = counts[stats.nct.sf(critical, mean.degrees, shift) >= POWER]
        return int(enough[0]) - self.trainings if len(enough) else None

    def expected_half_width(self, trainings: int, blocks: int) -> float | None:
        """Half the width that the 95 % interval has on average with so many pairs of trainings and seed
        blocks, if the variances are those that these trainings show.

        None if that is unknown: with one training, here or there; and for other numbers of seed blocks,
        where these trainings have one. For one block it contains the variance between blocks, if that is
        known, although an interval from one block cannot contain it.
        """
        if not self.degrees or trainings < 2 or (self.components is None and blocks != self.blocks):
            return None
        mean = self._source.of_mean(trainings, blocks)
        # a standard deviation is estimated too low on average, by this factor
        low = np.exp(special.gammaln((mean.degrees + 1) / 2) - special.gammaln(mean.degrees / 2))
        low *= np.sqrt(2 / mean.degrees)
        critical = stats.t.ppf(1 - SIGNIFICANCE / 2, mean.degrees)
        return float(critical * low * np.sqrt(mean.variance))

    @property
    def _source(self) -> Components:
        """With one seed block all variance is taken as one between trainings."""
        return self.components or Components(self.spread**2, 0, 0, 1 if self.paired else 2)


Values = float | Sequence[float]


def effect(base: Mapping[int, Values], change: Mapping[int, Values]) -> Effect:
    """The effect of a change, from trainings without and with it.

    Trainings with the same seed are paired (Student's t of their differences): they have the order of
    images, noise and noise levels in common, which makes the variance of the difference smaller. Seeds
    that only one of both has are left out. If they outnumber those in common, or fewer than two are
    in common, all trainings are compared unpaired (Welch's t), if there are two of each.

    Args:
        base, change: by seed, value of the metric on each seed block, in one order of blocks; a number for a
            single block.

    Raises:
        ValueError: no values, values that are not finite, or different numbers of seed blocks.
    """
    first, second = (
        {s: np.atleast_1d(v).astype(float) for s, v in x.items()} for x in (base, change)
    )
    for values in (first, second):
        if not values or not all(np.isfinite(v).all() for v in values.values()):
            raise ValueError(f"expected finite values of at least one training, got {dict(values)}")
    sizes = {v.shape for values in (first, second) for v in values.values()}
    if len(sizes) > 1:
        raise ValueError(f"expected values of as many seed blocks in all trainings, got {sizes}")
    common, others = sorted(first.keys() & second.keys()), first.keys() ^ second.keys()
    few = len(common) < 2 or len(others) > len(common)
    if common and (not few or min(len(first), len(second)) < 2):
        return _effect([np.stack([second[seed] - first[seed] for seed in common])])
    return _effect([-np.stack(list(first.values())), np.stack(list(second.values()))])


def _effect(groups: Sequence[Array]) -> Effect:
    """
    Args:
        groups: [trainings, seed blocks]: differences of pairs, or the base's values negated and the change's.
    """
    trainings, blocks = min(len(group) for group in groups), groups[0].shape[1]
    paired, unknown = len(groups) == 1, float("nan")
    if trainings < 2:
        mean = float(sum(group.mean() for group in groups))
        return Effect(mean, 1, blocks, paired, unknown, None, unknown, 0, 1, unknown)
    found = crossed_mean(groups)
    mean, error, degrees = (
        float(x) for x in (found.value, np.sqrt(found.error.variance), found.error.degrees)
    )
    parts = Components(float(found.trainings), float(found.samples), float(found.both), len(groups))
    p_value = float(2 * stats.t.sf(_ratio(abs(mean), error), degrees))
    return Effect(
        mean,
        trainings,
        blocks,
        paired,
        float(found.spread),
        parts if blocks > 1 else None,
        error,
        degrees,
        1,
        p_value,
    )


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
