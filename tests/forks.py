"""What a fork of the test process does and prints: modules that are imported need not be imported again."""

import os
import sys
from collections.abc import Callable


def in_fork(act: Callable[[], int]) -> tuple[int, str]:
    """The exit status of a fork, which is what `act` returns (99 if it raises), and what it prints.

    It prints into a pipe: a file would be limited and refused as other files are.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 99
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            status = act()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text
