"""A run's own log: JSON lines, one row per time. This file is the truth; MLflow is the view."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edm2.runtime.files import write_text


class Log:
    """The rows of one file. A last line that a kill cut short is dropped on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keep(lambda row: True)

    def append(self, step: int, metrics: Mapping[str, float], axis: str) -> None:
        """Add a row; non-finite values are kept as text, which JSON has no numbers for."""
        row = {axis: step, **{k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Forget the rows that are not wanted."""
        if self.path.exists():
            rows = [row for row in read_log(self.path) if wanted(row)]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
