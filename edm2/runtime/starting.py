"""Errors of the machine while a stage still imports its modules, before it can explain them itself.

Only what Python has loaded by itself is used: nothing can be opened if too many files are.
"""

import os
import sys
from types import TracebackType

TRACEBACK = "EDM2_TRACEBACK"  # as in edm2.runtime.system_errors, which imports more
WAY_OUT = (
    "Free space, or raise the limit of open files (ulimit -n). Then run the same command again."
)


def explain_errors_of_start() -> None:
    """From now on an uncaught error of the system is one sentence, and the exit status is 2."""
    sys.excepthook = _explain


def _explain(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not isinstance(error, OSError | MemoryError) or os.environ.get(TRACEBACK):
        sys.__excepthook__(kind, error, traceback)
        return
    path = getattr(error, "filename", None)
    reason = getattr(error, "strerror", None) or str(error) or "out of memory"
    place = f"{path}: " if path else ""
    os.write(2, f"cannot start: {place}{reason}. {WAY_OUT}\n".encode(errors="replace"))
    os._exit(2)
