"""How often trainings of one config are called different, by the intervals of `edm2 compare`.

`python benchmarks/calibration.py` simulates experiments without a difference, in which trainings, seed blocks
and both vary. `python benchmarks/calibration.py reports/fid/*.csv [--sizes 2 3 5] [--splits 300]` takes
tables of several trainings of each config. It divides the trainings of one config into two groups of equal
size, in many ways, and compares the groups as if the second were a change: by trainings that are paired with
one another, and by none paired; each at its own best EMA length, and at one for all. Intervals should
contain 0 in 95 % of the comparisons, and false improvements be at most 2.5 %. Ladders are six such
comparisons with one correction; at most 5 % of them may have a step that is settled. It also prints how much
trainings and seed blocks differ, and, of configs that follow each other, what pairing by seed changes.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent))

from edm2.metrics.crossed import crossed_mean
from edm2.metrics.effects import Effect, adjust, effect
from edm2.reporting.seed_curves import SeedCurves
from edm2.reporting.selection import best_of_others, read_networks
from edm2.reporting.tables import as_markdown

STEPS = 6  # of a ladder
OTHER_SEEDS = 1000  # added to the seeds of the second group if it is not paired


def read_curves(files: list[Path]) -> dict[str, SeedCurves]:
    """By config, the curves of its trainings; configs with a single one are named and left out."""
    curves = {}
    for config, part in read_networks(files).groupby("config"):
        trainings = {int(str(seed)): rows for seed, rows in part.groupby("training_seed")}
        if len(trainings) < 2:
            print(f"config {config} has one training: left out", file=sys.stderr)
            continue
        curves[str(config)] = SeedCurves.of(trainings)
    return curves


def divisions(count: int, size: int, number: int) -> Iterator[tuple[list[int], list[int]]]:
    """Different divisions of `count` trainings into two groups of `size`, which are pairs in order."""
    rng, taken = np.random.default_rng(size), set()
    for _ in range(20 * number):
        order = rng.permutation(count)[: 2 * size].tolist()
        pairs = frozenset(zip(order[:size], order[size:], strict=True))
        if pairs in taken or frozenset((b, a) for a, b in pairs) in taken:
            continue
        taken.add(pairs)
        yield order[:size], order[size:]
        if len(taken) == number:
            return


def part_of(curves: SeedCurves, rows: list[int]) -> SeedCurves:
    return replace(curves, seeds=range(len(rows)), values=curves.values[rows])


def compared(curves: SeedCurves, size: int, number: int) -> Iterator[tuple[str, str, Effect]]:
    """Whether paired, the choice of length, and the effect of each division."""
    for first, second in divisions(len(curves.seeds), size, number):
        base, change = part_of(curves, first), part_of(curves, second)
        both = np.concatenate([base.values, change.values]).mean(axis=0, keepdims=True)
        chosen = best_of_others(both)[0]
        on = base.valued_on
        for length, a, b in (
            ("own best", base.own_best(on), change.own_best(on)),
            ("common", base.valued_at(chosen), change.valued_at(chosen)),
        ):
            yield "yes", length, effect(a, b)
            yield "no", length, effect(a, {seed + OTHER_SEEDS: v for seed, v in b.items()})


def calibration(curves: dict[str, SeedCurves], sizes: list[int], number: int) -> pd.DataFrame:
    """A row per size of groups, pairing and choice of length, over all configs."""
    found: dict[tuple[int, str, str], list[list[Effect]]] = {}
    for size in sizes:
        for of_config in curves.values():
            if len(of_config.seeds) < 2 * size:
                continue
            effects: dict[tuple[int, str, str], list[Effect]] = {}
            for paired, length, each in compared(of_config, size, number):
                effects.setdefault((size, paired, length), []).append(each)
            for key, values in effects.items():
                found.setdefault(key, []).append(values)
    return pd.DataFrame([rates(*key, by_config) for key, by_config in found.items()])


def rates(size: int, paired: str, length: str, by_config: list[list[Effect]]) -> dict[str, object]:
    effects = [each for config in by_config for each in config]
    ladders = np.random.default_rng(0).integers(0, len(effects), (300, STEPS))
    false = [any(e.settled for e in adjust([effects[k] for k in ladder])) for ladder in ladders]
    return {
        "trainings of each": size,
        "paired": paired,
        "EMA length": length,
        "configs": len(by_config),
        "comparisons": len(effects),
        "intervals with 0, %": 100
        * np.mean([e.interval[0] <= 0 <= e.interval[1] for e in effects]),
        "false improvements, %": 100 * np.mean([e.settled and e.difference < 0 for e in effects]),
        "ladders with a false step, %": 100 * np.mean(false),
    }


def sources(curves: dict[str, SeedCurves]) -> pd.DataFrame:
    """How much trainings of one config differ on their own, over blocks, and in both."""
    rows = []
    for config, each in curves.items():
        values = np.array(list(each.own_best(each.valued_on).values()))
        found = crossed_mean([values])
        rows.append(
            {
                "config": config,
                "trainings": len(values),
                "seed blocks": values.shape[1],
                "mean": float(found.value),
                "std of trainings": float(np.sqrt(found.trainings)),
                "std of samples": float(np.sqrt(found.samples)),
                "std of both": float(np.sqrt(found.both)),
            }
        )
    return pd.DataFrame(rows)


def steps(curves: dict[str, SeedCurves]) -> pd.DataFrame:
    """Between configs that follow each other: the difference, and intervals with and without pairing."""
    rows = []
    for (a, base), (b, change) in pairwise(curves.items()):
        first, second = (each.own_best(each.valued_on) for each in (base, change))
        paired = effect(first, second)
        unpaired = effect(first, {seed + OTHER_SEEDS: v for seed, v in second.items()})
        widths = [np.subtract(*e.interval[::-1]) / 2 for e in (paired, unpaired)]
        parts = paired.components
        stds = np.sqrt([parts.trainings, parts.samples, parts.both]) if parts else [np.nan] * 3
        rows.append(
            {
                "step": f"{a} → {b}",
                "difference": paired.difference,
                "±, paired": widths[0],
                "±, not paired": widths[1],
                "ratio": widths[0] / widths[1],
                "std of trainings": stds[0],
                "std of samples": stds[1],
                "std of both": stds[2],
                "variance from samples": np.nan
                if paired.sample_share is None
                else paired.sample_share,
            }
        )
    return pd.DataFrame(rows)


SIMULATED = (  # variances of trainings, samples, both
    (1, 0.03, 0.3),
    (1, 0.1, 1),
    (0, 0, 1),
    (1, 1, 1),
)
EXPERIMENTS = 20_000


def simulated() -> pd.DataFrame:
    """Coverage and false improvements of drawn experiments without a difference."""
    rng, rows = np.random.default_rng(0), []
    for variances, blocks, trainings in product(SIMULATED, (1, 3), (2, 3, 5, 10)):
        of_trainings, samples, both = np.sqrt(variances)
        differences = (
            rng.normal(0, of_trainings, (EXPERIMENTS, trainings, 1))
            + rng.normal(0, samples, (EXPERIMENTS, 1, blocks))
            + rng.normal(0, both, (EXPERIMENTS, trainings, blocks))
        )
        found = crossed_mean([differences])
        ratio = found.value / np.sqrt(found.error.variance)
        outside = abs(ratio) > stats.t.ppf(0.975, found.error.degrees)
        rows.append(
            {
                "variances": ", ".join(f"{v:g}" for v in variances),
                "seed blocks": blocks,
                "trainings": trainings,
                "intervals with 0, %": 100 * (1 - outside.mean()),
                "false improvements, %": 100 * (outside & (ratio < 0)).mean(),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, nargs="*")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 5])
    parser.add_argument("--splits", type=int, default=300, help="divisions of each config and size")
    args = parser.parse_args()
    if not args.tables:
        print(as_markdown(simulated()))
        return
    curves = read_curves(args.tables)
    print(as_markdown(sources(curves)))
    if len(curves) > 1:
        print(as_markdown(steps(curves)))
    print(as_markdown(calibration(curves, args.sizes, args.splits)))


if __name__ == "__main__":
    main()
