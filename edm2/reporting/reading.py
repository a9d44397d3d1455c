"""Tables and metrics that stages wrote, read back: what is damaged is refused by name."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd

from edm2.params.errors import NotFiniteError, UserError
from edm2.runtime.manifest import REBUILD_HINT


def read_table(
    file: Path | TextIO, columns: Sequence[str], numbers: Sequence[str] | None = None
) -> pd.DataFrame:
    """A CSV table.

    Args:
        columns: those that it must have, if it has rows.
        numbers: those whose cells are numbers, or empty; None: all.

    Raises:
        UserError: the file is not such a table.
    """
    name = str(file) if isinstance(file, Path) else "a table of reports/ in another revision"
    try:
        table = pd.read_csv(file, dtype={"config": str})
    except ValueError as error:  # also of the encoding, and of a table without rows or columns
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{name}: cannot be read as a table ({reason}). {REBUILD_HINT}") from None
    for column in columns:
        if column not in table and len(table):
            raise UserError(
                f"{name}: column {column} is missing: damaged, or of another version of edm2. {REBUILD_HINT}"
            )
    for column in table.columns if numbers is None else numbers:
        parsed = pd.to_numeric(table[column], errors="coerce")
        for cell in table[column][parsed.isna() & table[column].notna()]:
            raise UserError(
                f"{name}: {column}: {cell!r}: expected a number: damaged. {REBUILD_HINT}"
            )
        table[column] = parsed
    return table


def read_metrics(path: Path) -> dict[str, float]:
    """The metrics.json of a stage.

    Raises:
        UserError: it is not an object of numbers.
        NotFiniteError: one is NaN or infinite.
    """
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}). {REBUILD_HINT}") from None
    if not isinstance(metrics, dict) or not all(
        isinstance(v, int | float) for v in metrics.values()
    ):
        raise UserError(f"{path}: expected a number for each metric: damaged. {REBUILD_HINT}")
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{path}: {key} is {value}: expected a finite number. {REBUILD_HINT}"
            )
    return metrics
