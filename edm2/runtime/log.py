"""The local log of a run: JSON lines, one row per step. It is complete; MLflow is a view of it."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.checked_json import checked_line, read_checked_line
from edm2.runtime.distributed import is_main_process
from edm2.runtime.files import write_text

# metrics of trainings: values of gradients that were set to zero, after a prefix; the part of the steps
# that are not finite, in rows that have some
NONFINITE_GRADIENTS = "nonfinite_gradients"
NONFINITE_STEPS = "train/nonfinite_steps"
REMEDY = (
    "Restore it, or remove it and run the same command again, which goes on without its rows; to have them "
    "again, remove all checkpoints of this run as well."
)


class Log:
    """A file of rows, which the main process writes. Each has a checksum of itself and of all before it.

    Opening it there drops an incomplete last line, which a killed process may leave, and rows on other axes
    than `nimg`: trainings resume, but final metrics and curves are logged by each launch.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: a row is damaged; on the main process.
        """
        self.path, self.last = path, ""  # checksum of the last row
        if is_main_process():
            self.keep(lambda row: "nimg" in row)

    def append(self, step: int, metrics: Mapping[str, float], axis: str) -> None:
        """Add a row. Non-finite values are written as text, because JSON has no such numbers."""
        row = {axis: step, **{k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}}
        line, self.last = checked_line(row, self.last)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def keep(self, predicate: Callable[[dict[str, Any]], bool]) -> None:
        """Remove the rows for which `predicate` is false."""
        if self.path.exists():
            if _ends_within_line(self.path):
                print(
                    f"{self.path}: its last line is incomplete, as after a kill: dropped.",
                    file=sys.stderr,
                )
            lines, self.last = [], ""
            for row in filter(predicate, read_log(self.path)):
                line, self.last = checked_line(row, self.last)
                lines.append(line)
            write_text(self.path, "".join(lines))

    def save(self) -> str:
        """Wait until the rows are on the disk; returns the checksum of the last one, for `require`."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return self.last

    def require(self, last: str) -> None:
        """
        Args:
            last: what `save` returned.

        Raises:
            UserError: the rows until then are not there, though the log is.
        """
        if not self.path.exists():
            if last:
                print(f"{self.path}: does not exist: the log begins again.", file=sys.stderr)
            return
        checksums = (checksum for _, checksum in _rows(self.path))
        if last and last not in checksums:
            raise UserError(
                f"{self.path}: ends before the checkpoint, or is that of another run. {REMEDY}"
            )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, without an incomplete last line.

    Raises:
        UserError: a row is damaged.
    """
    return [row for row, _ in _rows(path)] if path.exists() else []


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows and their checksums."""
    before = ""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row, before = read_checked_line(line, before)
            except ValueError:
                raise UserError(
                    f"{path}: line {number}: not as it was written, or not after the line that was "
                    f"before it: damaged, or of an earlier version. {REMEDY}"
                ) from None
            yield row, before


def _ends_within_line(path: Path) -> bool:
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")
