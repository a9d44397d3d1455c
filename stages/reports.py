"""The small files that stages leave for the report, and the same numbers for MLflow."""

from collections.abc import Mapping

from edm2.runtime.files import write_json, write_text
from edm2.runtime.log import read_log
from stages.entry import Place


def write_curves(place: Place, out: str) -> None:
    """The run's log as CSV: one row per time, one column per metric."""
    import pandas as pd

    rows = pd.DataFrame([row for row in read_log(place.state.log) if "nimg" in row])
    table = rows.groupby("nimg", as_index=False).first()
    write_text(place.out(out), table.to_csv(index=False))


def write_metrics(place: Place, out: str, metrics: Mapping[str, float]) -> None:
    """Final metrics as JSON, and as best/... in the run."""
    write_json(place.out(out), dict(metrics))
    place.run.summary(metrics)
