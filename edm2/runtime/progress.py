"""Progress of long steps: a bar on a terminal, a line from time to time elsewhere.

With EDM2_QUIET=1 there are neither; see `edm2.runtime.messages`.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from edm2.runtime.messages import is_quiet, say

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0
MIN_SECONDS = 1.0  # shorter steps show nothing


class Progress:
    """Counts up to `total` units; the main process shows rate and time left, and `note` if it is set."""

    def __init__(self, name: str, total: int, unit: str, start: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self.start = start
        self.shown = -1  # units done, of the last line
        self.note = ""
        self.start_time = self.last_line = time.monotonic()
        self.quiet = is_quiet()
        if start:
            say(f"{name}: resuming at {start:,} of {total:,} {unit}")
        terminal = sys.stderr.isatty() and not self.quiet
        self.bar = (
            tqdm(
                total=total,
                initial=start,
                unit=unit,
                desc=name,
                unit_scale=True,
                delay=MIN_SECONDS,
            )
            if terminal
            else None
        )

    def extend(self, units: int) -> None:
        """Count up to so many units more."""
        self.total += units
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.refresh()

    def advance(self, units: int) -> None:
        self.done += units
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(units)
        elif not self.quiet and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self._line()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.quiet or self.shown == self.done:
            return
        elif time.monotonic() - self.start_time > MIN_SECONDS:
            self._line()

    def _line(self) -> None:
        self.shown = self.done
        seconds = max(time.monotonic() - self.start_time, 1e-9)
        rate = (self.done - self.start) / seconds
        left = (self.total - self.done) / rate if rate else float("inf")
        print(
            f"{self.name}: {self.done}/{self.total} {self.unit}  {rate:.4g} {self.unit}/s  "
            f"{left:.0f} s left" + (f"  {self.note}" if self.note else ""),
            file=sys.stderr,
            flush=True,
        )


def track(items: Iterable[T], name: str, total: int, unit: str) -> Iterator[T]:
    """Yield the items and show progress."""
    progress = Progress(name, total, unit)
    try:
        for item in items:
            yield item
            progress.advance(1)
    finally:
        progress.close()
