"""Small files that stages write for the report, each with a checksum beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edm2.pipeline.runner import StageContext
from edm2.runtime.checksums import write_checksum
from edm2.runtime.distributed import is_main_process
from edm2.runtime.files import write_json, write_text
from edm2.runtime.log import read_log

if TYPE_CHECKING:
    import pandas as pd


def write_table(context: StageContext, out: str | Path, table: "pd.DataFrame") -> None:
    """A table as CSV."""
    path = context.out(out)
    write_text(path, table.to_csv(index=False))
    write_checksum(path)


def write_curves(context: StageContext, out: str) -> "pd.DataFrame":
    """The run's log as CSV: one row per time, one column per metric. Returns the table."""
    import pandas as pd

    rows = pd.DataFrame([row for row in read_log(context.state.log) if "nimg" in row])
    table = rows.groupby("nimg", as_index=False).first()
    write_table(context, out, table)
    return table


def write_no_curves(context: StageContext, out: str) -> None:
    """An empty table of curves, for a stage that trains nothing."""
    import pandas as pd

    write_table(context, out, pd.DataFrame(columns=["nimg"]))


def note_without_images(consequence: str) -> None:
    """Print why a stage has an empty result, on the main process."""
    if is_main_process():
        print(f"note: the dataset has latents and no images, so {consequence}.")


def write_metrics(context: StageContext, out: str, metrics: Mapping[str, float]) -> None:
    """Final metrics as JSON, and as best/... in the run."""
    path = context.out(out)
    write_json(path, dict(metrics))
    write_checksum(path)
    context.run.log_summary(metrics)
