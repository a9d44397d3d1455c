"""The hostile files by name: each makes its file in a folder, and returns a function that reads it as the
product does. None needs more than a few megabytes on disk.
"""

from collections.abc import Callable
from pathlib import Path

Case = Callable[[Path], Callable[[], object]]
GIB = 2**30
UNPACKED = 2**28  # bytes of zeros, which compress to a thousandth
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def add(make: Case) -> Case:
        CASES[name] = make
        return make

    return add
