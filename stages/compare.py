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
from ruamel.yaml import YAML

from edm2.params import UserError
from edm2.reporting.compare import compare_experiments, draw_comparison
from edm2.runtime.files import write_text
from edm2.runtime.tracking import flatten

CURVES = "reports/ema_curves.csv"


def read(revision: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Curves and flat params of an experiment.

    Raises:
        UserError: the revision is unknown, or has no curves.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    rev = None if revision == "workspace" else revision
    try:
        curves = pd.read_csv(StringIO(dvc.api.read(CURVES, rev=rev)))
        params = YAML(typ="safe").load(dvc.api.read("params.yaml", rev=rev))
    except (DvcException, SCMError, OSError) as error:
        raise UserError(f"{revision}: expected a revision with {CURVES}, a commit or an experiment of "
                        f"`dvc exp show` that ran to its end ({error}).") from None  # fmt: skip
    return curves, flatten(params)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__)
    parser.add_argument("revisions", nargs="+", metavar="REVISION")
    parser.add_argument("--out", type=Path, default=Path("reports/compare"))
    given = parser.parse_args()
    try:
        experiments = {revision: read(revision) for revision in given.revisions}
        table = compare_experiments(experiments)
    except UserError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    write_text(given.out / "compare.csv", table.to_csv(index=False))
    curves = {revision: curve for revision, (curve, _) in experiments.items()}
    draw_comparison(curves, given.out / "compare.png")
    print(table.to_string(index=False))
    print(f"\nfigure: {given.out / 'compare.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
