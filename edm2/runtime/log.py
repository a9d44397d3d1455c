"""The local log of a run: JSON lines, one row per step. It is complete; MLflow is a view of it."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edm2.runtime.distributed import is_main_process
from edm2.runtime.files import write_text

# metrics of trainings: values of gradients that were set to zero, after a prefix; the part of the steps
# that are not finite, in rows that have some
NONFINITE_GRADIENTS = "nonfinite_gradients"
NONFINITE_STEPS = "train/nonfinite_steps"


class Log:
    """A file of rows, which the main process writes.

    Opening it there drops an incomplete last line, which a killed process may leave, and rows on other axes
    than `nimg`: trainings resume, but final metrics and curves are logged by each launch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if is_main_process():
            self.keep(lambda row: "nimg" in row)

    def append(self, step: int, metrics: Mapping[str, float], axis: str) -> None:
        """Add a row. Non-finite values are written as text, because JSON has no such numbers."""
        row = {axis: step, **{k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def keep(self, predicate: Callable[[dict[str, Any]], bool]) -> None:
        """Remove the rows for which `predicate` is false."""
        if self.path.exists():
            rows = [row for row in read_log(self.path) if predicate(row)]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without an incomplete last line."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
