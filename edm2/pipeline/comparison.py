"""EMA curves of several experiments side by side: `edm2 compare`."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from edm2.params.replicates import Replicate
from edm2.pipeline.experiments import read_params, read_result, used_params
from edm2.reporting.compare import Experiment, compare_experiments, draw_comparison
from edm2.reporting.selection import read_networks
from edm2.reporting.tables import write_table
from edm2.reporting.verdict import Verdict, verdict_table, verdicts
from edm2.runtime.tracking import flatten


def write_comparison(revisions: Sequence[str], out: Path) -> tuple[pd.DataFrame, Sequence[Verdict]]:
    """Write compare.csv and compare.png to `out`: the curves, the params in which the experiments
    differ, the best EMA lengths, and for learning-rate schedules 1 / (α_ref² t_ref), to which the
    best length is proportional in the paper (EDM2 Figure 13). verdict.csv: whether each change helps.

    Args:
        revisions: commits, branches, names of experiments, or `workspace`.

    Raises:
        UserError: a revision is unknown, has no results, or was evaluated with another metric.
    """
    experiments = {}
    for revision in revisions:
        params = read_params(revision)
        used = used_params(params)
        experiments[revision] = Experiment(_networks(revision, params), flatten(params), used)
    table = compare_experiments(experiments)
    write_table(table, out / "compare.csv")
    draw_comparison(experiments, out / "compare.png")
    answers = verdicts(experiments)
    write_table(verdict_table(answers), out / "verdict.csv")
    return table, answers


def _networks(revision: str, params: Mapping[str, Any]) -> pd.DataFrame:
    """The metrics of every network of all trainings."""
    tables = [
        read_result(revision, f"reports/fid/{Replicate(config, seed)}.csv")
        for config in params["configs"]
        for seed in params["seeds"]
    ]
    return read_networks(StringIO(text) for text in tables)
