"""EMA curves of several experiments side by side: `edm2 compare`."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from edm2.pipeline.experiments import flat_params, read
from edm2.reporting.compare import compare_experiments, draw_comparison
from edm2.runtime.files import write_text


def write_comparison(revisions: Sequence[str], out: Path) -> pd.DataFrame:
    """Write compare.csv and compare.png to `out`: each curve, the params in which the experiments
    differ, the best length, and for learning-rate schedules 1 / (α_ref² t_ref), to which the best
    length is proportional in the paper (EDM2 Figure 13).

    Args:
        revisions: commits, branches, names of experiments, or `workspace`.

    Raises:
        UserError: a revision is unknown, has no results, or was evaluated with another metric.
    """
    params = {revision: flat_params(revision) for revision in revisions}
    experiments = {rev: (_networks(rev, flat), flat) for rev, flat in params.items()}
    table = compare_experiments(experiments)
    write_text(out / "compare.csv", table.to_csv(index=False))
    draw_comparison(experiments, out / "compare.png")
    return table


def _networks(revision: str, params: dict[str, Any]) -> pd.DataFrame:
    """The metrics of every network of all its configs."""
    tables = [read(revision, f"reports/fid/{config}.csv") for config in params["configs"]]
    return pd.concat([pd.read_csv(StringIO(text)) for text in tables], ignore_index=True)
