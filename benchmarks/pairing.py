"""What pairing buys: intervals of paired and of unpaired comparisons of the same trainings.

`python benchmarks/pairing.py PROJECT [--out FILE]`, after `dvc repro` with several `seeds`, compares each
config with the one before it, at each training's own best EMA length: once with trainings of the same seed
paired, and once as if all seeds differed. It prints the widths of both 95 % intervals, the ratio of
unpaired to paired, that of their standard errors, and the correlation over seeds, for the trainings
that exist.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pandas as pd

from edm2.metrics.effects import Effect, effect
from edm2.params import load
from edm2.reporting.seed_curves import SeedCurves
from edm2.reporting.selection import read_networks


def own_best(project: Path) -> pd.DataFrame:
    """The value at the own best EMA length, of each training that has been evaluated: [seed, config]."""
    params, columns = load(project / "params.yaml"), {}
    for config in params.configs:
        files = [project / f"reports/fid/{config}-{seed}.csv" for seed in params.seeds]
        if existing := [file for file in files if file.exists()]:
            tables = read_networks(existing).groupby("training_seed")
            columns[config] = SeedCurves.of(dict(iter(tables))).own_best()
    return pd.DataFrame(columns)


def width(effect: Effect) -> float:
    low, high = effect.interval or (0.0, float("inf"))
    return high - low


def compare(values: pd.DataFrame) -> pd.DataFrame:
    """A row per step, over the seeds that both configs have."""
    rows = []
    for base, change in pairwise(values.columns):
        both = values[[base, change]].dropna()
        if len(both) < 2:
            continue
        paired = effect(both[base].to_dict(), both[change].to_dict())
        renamed = both[change].set_axis([f"other {seed}" for seed in both.index])
        unpaired = effect(both[base].to_dict(), renamed.to_dict())
        rows.append(
            {
                "step": f"{base} → {change}",
                "trainings": len(both),
                "difference": paired.difference,
                "paired": width(paired),
                "unpaired": width(unpaired),
                "ratio": width(unpaired) / width(paired),
                "ratio of errors": unpaired.standard_error / paired.standard_error,
                "correlation": np.corrcoef(both[base], both[change])[0, 1],
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--out", type=Path, help="csv file; default: none is written")
    args = parser.parse_args()
    table = compare(own_best(args.project))
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if args.out:
        table.to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
