"""Progress of long steps: a bar on a terminal, a quiet line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from edm2.runtime.distributed import ranks

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts up to `total` units and shows rate, time left and a few latest numbers."""

    def __init__(self, name: str, total: int, unit: str, start: int = 0) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self.start = start
        self.shown: dict[str, str] = {}
        self.began = self.last_line = time.monotonic()
        self.quiet = not ranks().first
        terminal = sys.stderr.isatty() and not self.quiet
        self.bar = (
            tqdm(total=total, initial=start, unit=unit, desc=name, unit_scale=True)
            if terminal
            else None
        )

    def advance(self, units: int, **latest: float) -> None:
        self.done += units
        self.shown.update({key: f"{value:.4g}" for key, value in latest.items()})
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)
            self.bar.update(units)
        elif not self.quiet and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self._line()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif not self.quiet:
            self._line()

    def _line(self) -> None:
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (self.done - self.start) / seconds
        left = (self.total - self.done) / rate if rate else float("inf")
        numbers = "".join(f"  {key} {value}" for key, value in self.shown.items())
        print(f"{self.name}: {self.done}/{self.total} {self.unit}  {rate:.4g} {self.unit}/s  "
              f"{left:.0f} s left{numbers}", file=sys.stderr, flush=True)  # fmt: skip


def track(items: Iterable[T], name: str, total: int, unit: str) -> Iterator[T]:
    """The items, with progress."""
    progress = Progress(name, total, unit)
    try:
        for item in items:
            yield item
            progress.advance(1)
    finally:
        progress.close()
