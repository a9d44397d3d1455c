"""`python -m stages.compare REVISION...`: EMA curves of several experiments side by side.

A revision is what git or `dvc exp show` calls one: a commit, a branch, the name of an experiment, or
`workspace`. Writes a figure and a table to reports/compare/: each curve, the params in which the
experiments differ, the best length, and for learning-rate schedules 1 / (α_ref² t_ref), to which the
best length is proportional in the paper (EDM2 Figure 13).
"""

import argparse
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from edm2.params import UserError
from edm2.reporting.compare import compare_experiments, draw_comparison
from edm2.runtime.files import write_text
from stages.experiments import flat_params, read


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__)
    parser.add_argument("revisions", nargs="+", metavar="REVISION")
    parser.add_argument("--out", type=Path, default=Path("reports/compare"))
    given = parser.parse_args()
    try:
        params = {rev: flat_params(rev) for rev in given.revisions}
        experiments = {rev: (_networks(rev, params[rev]), params[rev]) for rev in params}
        table = compare_experiments(experiments)
    except UserError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    write_text(given.out / "compare.csv", table.to_csv(index=False))
    draw_comparison(experiments, given.out / "compare.png")
    print(table.to_string(index=False))
    print(f"\nfigure: {given.out / 'compare.png'}")
    return 0


def _networks(revision: str, params: dict[str, Any]) -> pd.DataFrame:
    """What every network of all its configs made."""
    tables = [read(revision, f"reports/fid/{config}.csv") for config in params["configs"]]
    return pd.concat([pd.read_csv(StringIO(text)) for text in tables], ignore_index=True)


if __name__ == "__main__":
    sys.exit(main())
