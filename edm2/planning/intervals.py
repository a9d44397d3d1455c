"""What more trainings and samples buy: the expected width of intervals, beside its cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log
from statistics import fmean
from typing import Any

import pandas as pd
from pydantic import BaseModel

from edm2.metrics.effects import Effect, effect
from edm2.params import Params
from edm2.planning.plan import COLUMNS, Plan, Row, total
from edm2.planning.sampling import sweep_of
from edm2.reporting.seed_curves import SeedCurves
from edm2.reporting.trainings import by_training
from edm2.reporting.verdict import compare_trainings

COSTS = (
    "gpu_hours",
    "seconds",
    "past_seconds",
    "flops",
)  # that options are compared by: the first known


@dataclass(frozen=True)
class PastEffects:
    """What past runs show of the variance of a metric.

    Attributes:
        effects: by what an interval is of: each config against the one before it, like `F → G`; of a single
            config, its mean.
        problem: why past runs could not be read or compared; empty if they were.
    """

    metric: str
    effects: Mapping[str, Effect]
    problem: str = ""

    @classmethod
    def of(cls, networks: Mapping[str, pd.DataFrame]) -> "PastEffects":
        """
        Args:
            networks: tables of networks, by the revision that they are of.

        Raises:
            UserError: trainings, or configs, were evaluated differently.
        """
        metrics, effects = set(), dict[str, Effect]()
        for revision, table in networks.items():
            trainings = by_training(table)
            of = f" ({revision})" if len(networks) > 1 else ""
            for base, change in pairwise(trainings):
                own, *_ = compare_trainings(base, change, trainings[base], trainings[change])
                effects[f"{base} → {change}{of}"] = own.effect
                metrics.add(own.metric)
            if len(trainings) == 1:
                ((config, single),) = trainings.items()
                curves = SeedCurves.of(single)
                effects[f"mean of {config}{of}"] = _mean(curves.own_best(curves.valued_on))
                metrics.add(curves.metric)
        return cls(", ".join(sorted(metrics)), effects)

    def as_json(self) -> dict[str, Any]:
        return {"metric": self.metric, "of": list(self.effects), "unknown": self.unknown}

    @property
    def unknown(self) -> str:
        """What is missing to know what more would buy; empty if nothing is."""
        effects = self.effects.values()
        if self.problem:
            return self.problem
        if not effects:
            return (
                "there are no past runs. Run `dvc repro` with `seeds: [0, 1]` or more first, or name runs "
                "with --from."
            )
        if not any(effect.degrees for effect in effects):
            return (
                "no past runs have trainings with several seeds. Run `dvc repro` with `seeds: [0, 1]` or "
                "more first, or name runs with --from."
            )
        if all(effect.components is None for effect in effects):
            return (
                "past trainings with one seed block do not show what more samples buy. Run "
                "`evaluation.seed_blocks: 3` first."
            )
        return ""


def _mean(values: Mapping[int, Sequence[float]]) -> Effect:
    """The mean over trainings, which is a difference from 0."""
    return effect({seed: [0.0] * len(blocks) for seed, blocks in values.items()}, values)


@dataclass(frozen=True)
class Option:
    """Something that can be bought.

    Attributes:
        rows: the part of the plan that comes on top of it; none for the params as they are.
        half_widths: half the width that the 95 % interval has on average, by what it is of; None: not known.
    """

    name: str
    seeds: int
    seed_blocks: int
    samples: int
    rows: Sequence[Row]
    half_widths: Mapping[str, float | None]

    def as_json(self) -> dict[str, Any]:
        extra = {column: total(self.rows, column) for column in ("images", *COLUMNS)}
        numbers = {"seeds": self.seeds, "seed_blocks": self.seed_blocks, "samples": self.samples}
        return {"option": self.name, **numbers, **extra, "half_widths": dict(self.half_widths)}

    def narrowing(self, before: "Option") -> float | None:
        """By what part intervals are narrower than `before`, in the geometric mean; None: not known."""
        ratios = []
        for name, width in self.half_widths.items():
            old = before.half_widths[name]
            if not width or not old:
                return None
            ratios.append(log(width / old))
        return 1 - exp(fmean(ratios))


def options_of(plan: Plan, params: Params, effects: Mapping[str, Effect]) -> list[Option]:
    """The params as they are, one more seed, one more seed block, and twice the samples in each.

    Twice the samples are taken as twice the blocks, of which the variance of a mean is about the same.
    Nothing, if no trainings with several seeds are known.
    """
    if not any(effect.degrees for effect in effects.values()):
        return []
    seeds, blocks, samples = (
        len(params.seeds),
        params.evaluation.seed_blocks,
        params.evaluation.samples,
    )
    first = [row for row in plan.rows if row.training and row.training.seed == params.seeds[0]]

    def option(name: str, rows: Sequence[Row], seeds: int, blocks: int, factor: int = 1) -> Option:
        widths = {key: e.expected_half_width(seeds, blocks * factor) for key, e in effects.items()}
        return Option(name, seeds, blocks, samples * factor, rows, widths)

    return [
        option("as in params", (), seeds, blocks),
        option("one more seed", first, seeds + 1, blocks),
        option(
            "one more seed block",
            list(_added(plan, params, seed_blocks=blocks + 1)),
            seeds,
            blocks + 1,
        ),
        option(
            "twice the samples", list(_added(plan, params, samples=2 * samples)), seeds, blocks, 2
        ),
    ]


def _added(plan: Plan, params: Params, **evaluation: int) -> Iterator[Row]:
    """What evaluations with other params add to those of the plan, in proportion to their images."""
    more = BaseModel.model_copy(params.evaluation, update=evaluation)  # also above its limits
    changed = params.model_copy(update={"evaluation": more})
    for row in plan.rows:
        if row.training and row.group == f"fid@{row.training.config}":
            images = sum(sweep_of(row.training.config, changed).images.values())
            yield _scaled(row, images / row.images - 1)


def _scaled(row: Row, factor: float) -> Row:
    def part(value: float | None) -> Any:
        return None if value is None else value * factor

    return replace(
        row,
        images=round(row.images * factor),
        flops=round(row.flops * factor),
        disk_bytes=round(row.disk_bytes * factor),
        gpu_hours=part(row.gpu_hours),
        seconds=part(row.seconds),
        past_seconds=part(row.past_seconds),
    )


def best_buy(options: Sequence[Option]) -> Option | None:
    """The option that narrows intervals most for its cost; None: not known, or none does."""
    now, *others = options
    column = next(c for c in COSTS if all(total(option.rows, c) is not None for option in others))
    values = {}
    for option in others:
        narrowing, cost = option.narrowing(now), total(option.rows, column)
        if narrowing is None or not cost:
            return None
        values[-log(1 - narrowing) / cost] = option
    best = max(values)
    return values[best] if best > 0 else None
