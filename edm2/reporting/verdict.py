"""Whether a change helps: pairs of configs or experiments, over all of their trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from edm2.metrics.effects import Effect, adjust, effect
from edm2.params import UserError
from edm2.reporting.changes import Change, Changes, Experiment
from edm2.reporting.seed_curves import SeedCurves
from edm2.reporting.selection import OTHER_BLOCKS, SAME_IMAGES, best_of_others
from edm2.reporting.trainings import Trainings

Choice = Literal["own best", "common"]
COLUMNS = [
    "base",
    "change",
    "metric",
    "EMA length",
    "valued on",
    "trainings",
    "seed blocks",
    "paired",
    "difference",
    "low",
    "high",
    "variance from samples",
    "probability of improvement",
    "p (corrected)",
    "settled",
    "more trainings",
]


@dataclass(frozen=True)
class Verdict:
    """What is known of one change.

    Attributes:
        metric: name of the Fréchet distance.
        ema_length: whether both are compared at the best EMA length of each training, or at the one that
            is best for all of them together.
        valued_on: images that the values are of, in relation to those that the EMA length was chosen on.
        counts: trainings of base and of change, with those that have no partner.
        differences: of each pair of trainings, by seed, mean over seed blocks; empty if not paired.
    """

    base: str
    change: str
    metric: str
    ema_length: Choice
    valued_on: str
    effect: Effect
    counts: tuple[int, int]
    differences: Mapping[int, float]

    @property
    def where(self) -> str:
        """The EMA lengths at which both are compared, in words."""
        if self.ema_length == "common":
            return "the EMA length that is best for both together"
        return "the best EMA length of each training"

    @property
    def sentence(self) -> str:
        effect, step = self.effect, f"{self.base} → {self.change}"
        if len(self.differences) > 1 and not any(self.differences.values()):
            return f"{step}: the same values in all {len(self.differences)} paired trainings."
        if effect.interval is None:
            few = "{} and {} trainings".format(*self.counts)
            where = (
                f"in one pair of trainings{self._left_out}" if effect.paired else f"between {few}"
            )
            return (
                f"{step}: not settled. {self.metric} changes by {effect.difference:+.3g} {where}, which says "
                "nothing about others: train with more seeds."
            )
        low, high = effect.interval
        blocks = "one seed block" if effect.blocks == 1 else f"{effect.blocks} seed blocks"
        kind = f"paired trainings{self._left_out}" if effect.paired else "trainings"
        count = f"{effect.trainings} {kind} on {blocks}"
        if effect.settled:
            verb = "improves" if effect.difference < 0 else "worsens"
            low, high = sorted((abs(low), abs(high)))
            return (
                f"{step} {verb} {self.metric} by {abs(effect.difference):.3g} [{low:.3g}, {high:.3g}] "
                f"over {count}."
            )
        more = effect.more_trainings
        need = "more than can be estimated" if more is None else f"about {more} more"
        alone = ""
        if low > 0 or high < 0:
            alone = (
                f"; it would be if it were the only comparison (p = {effect.p_value:.2g} of all)"
            )
        return (
            f"{step}: not settled{alone}. {self.metric} changes by {effect.difference:+.3g} "
            f"[{low:+.3g}, {high:+.3g}] over {count}; needed: {need}."
        )

    @property
    def _left_out(self) -> str:
        """How many trainings have no partner of the same seed, in words."""
        alone = sum(self.counts) - 2 * self.effect.trainings if self.effect.paired else 0
        return f" ({alone} without a partner left out)" if alone else ""


def compare_trainings(base: str, change: str, a: Trainings, b: Trainings) -> list[Verdict]:
    """The verdicts on one change: at each training's own best EMA length, and at a common one.

    The EMA length of a seed block's value is chosen on the other seed blocks of the same sweep
    (cross-fitting), since a minimum of noisy values is too low on average. With a single block, the
    best network's value on fresh seeds is taken, where there is one. A common length favors neither.

    Raises:
        UserError: the metrics or the numbers of seed blocks differ.
    """
    first, second = SeedCurves.of(a), SeedCurves.of(b)
    _require_same_evaluation((base, first), (change, second))
    same = first.valued_on == second.valued_on
    valued_on = first.valued_on if same else SAME_IMAGES
    own = Verdict(
        base,
        change,
        first.metric,
        "own best",
        valued_on,
        *_effect(first.own_best(valued_on), second.own_best(valued_on)),
    )
    shared = sorted(set(first.lengths) & set(second.lengths))
    if not shared:
        return [own]
    first, second = first.at(shared), second.at(shared)
    chosen = best_of_others(
        np.concatenate([first.values, second.values]).mean(axis=0, keepdims=True)
    )[0]
    common = Verdict(
        base,
        change,
        first.metric,
        "common",
        OTHER_BLOCKS if len(chosen) > 1 else SAME_IMAGES,
        *_effect(first.valued_at(chosen), second.valued_at(chosen)),
    )
    return [own, common]


def _require_same_evaluation(*named: tuple[str, SeedCurves]) -> None:
    """Of base and change, which may have one name."""
    (base, first), (change, second) = named
    if first.metric != second.metric:
        raise UserError(
            f"{base} was evaluated with {first.metric}, {change} with {second.metric}: expected one "
            "metric. Use the same evaluation.detector and evaluation.samples."
        )
    blocks = [each.values.shape[2] for each in (first, second)]
    if blocks[0] != blocks[1]:
        raise UserError(
            f"{base} was evaluated on {blocks[0]} seed blocks, {change} on {blocks[1]}: expected as many. "
            "Use the same evaluation.seed_blocks."
        )


def _effect(
    base: Mapping[int, Sequence[float]], change: Mapping[int, Sequence[float]]
) -> tuple[Effect, tuple[int, int], dict[int, float]]:
    """The effect, the numbers of trainings, and the difference of each pair, from values of seed blocks by
    training.
    """
    found = effect(base, change)
    seeds = sorted(base.keys() & change.keys()) if found.paired else []
    pairs = {seed: float(np.mean(change[seed]) - np.mean(base[seed])) for seed in seeds}
    return found, (len(base), len(change)), pairs


def verdicts(experiments: Mapping[str, Experiment]) -> list[Verdict]:
    """The verdicts on all changes between experiments; see `Changes.between`."""
    return verdicts_on(Changes.between(experiments).pairs)


def verdicts_on(changes: Sequence[Change]) -> list[Verdict]:
    """The verdicts on changes, corrected for their number.

    Raises:
        UserError: see `compare_trainings`.
    """
    compared = [
        verdict
        for pair in changes
        for verdict in compare_trainings(
            pair.base.name, pair.change.name, pair.base.trainings, pair.change.trainings
        )
    ]
    return corrected(compared)


def corrected(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with p-values corrected for their number, separately for both choices of length."""
    corrected = list(verdicts)
    for choice in ("own best", "common"):
        places = [k for k, verdict in enumerate(verdicts) if verdict.ema_length == choice]
        effects = adjust([verdicts[k].effect for k in places])
        for k, adjusted in zip(places, effects, strict=True):
            corrected[k] = replace(verdicts[k], effect=adjusted)
    return corrected


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row per verdict. `low` and `high` are of this comparison alone, `p (corrected)` and `settled` of
    all together. `variance from samples` is the part that more samples would remove, from 0 to 1.
    """
    unknown = float("nan")
    rows = []
    for verdict in verdicts:
        effect = verdict.effect
        low, high = effect.interval or (unknown, unknown)
        rows.append(
            {
                "base": verdict.base,
                "change": verdict.change,
                "metric": verdict.metric,
                "EMA length": verdict.ema_length,
                "valued on": verdict.valued_on,
                "trainings": effect.trainings,
                "seed blocks": effect.blocks,
                "paired": "yes" if effect.paired else "no",
                "difference": effect.difference,
                "low": low,
                "high": high,
                "variance from samples": unknown
                if effect.sample_share is None
                else effect.sample_share,
                "probability of improvement": unknown
                if effect.improvement is None
                else effect.improvement,
                "p (corrected)": effect.p_value,
                "settled": "yes" if effect.settled else "no",
                "more trainings": effect.more_trainings,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)
