"""Small files that stages write for the report; their numbers are also logged to MLflow."""

from collections.abc import Mapping

from edm2.pipeline.runner import StageContext
from edm2.runtime.files import write_json, write_text
from edm2.runtime.log import read_log


def write_curves(context: StageContext, out: str) -> None:
    """The run's log as CSV: one row per time, one column per metric."""
    import pandas as pd

    rows = pd.DataFrame([row for row in read_log(context.state.log) if "nimg" in row])
    table = rows.groupby("nimg", as_index=False).first()
    write_text(context.out(out), table.to_csv(index=False))


def write_no_curves(context: StageContext, out: str) -> None:
    """An empty table of curves, for a stage that trains nothing."""
    write_text(context.out(out), "nimg\n")


def write_metrics(context: StageContext, out: str, metrics: Mapping[str, float]) -> None:
    """Final metrics as JSON, and as best/... in the run."""
    write_json(context.out(out), dict(metrics))
    context.run.log_summary(metrics)
