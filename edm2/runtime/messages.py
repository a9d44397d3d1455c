"""Lines that a user may want to read and need not: EDM2_QUIET=1, which `--quiet` sets, leaves them out.

Warnings and errors are none of these.
"""

import os
import sys

from edm2.runtime.failures import is_main_process

QUIET = "EDM2_QUIET"


def is_quiet() -> bool:
    """Whether this process prints no such lines: of several ranks only the first does."""
    return bool(os.environ.get(QUIET)) or not is_main_process()


def say(line: str) -> None:
    """Print a line, once for all ranks."""
    if not is_quiet():
        print(line, file=sys.stderr, flush=True)
