"""Acts on cases in forks that may hang, be killed or take all memory."""

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from edm2.params import UserError

C = TypeVar("C")
LATE = {-signal.SIGPROF: "still computing", -signal.SIGALRM: "hang"}  # how such a process ends
WAIT = 20  # times as many seconds by the clock as of the CPU, for what hangs without computing
MEMORY = 8 << 30  # bytes that a process may take
LINES = 60  # of an error
CHARACTERS = 20_000


def ended(cases: Sequence[C], act: Callable[[C], str], seconds: int) -> Iterator[tuple[C, str]]:
    """What `act` returns for each case; what is in LATE, "killed" or a traceback if it does not return.

    Args:
        seconds: of the CPU, of one case: a guard, no measurement.
    """
    done = 0
    while done < len(cases):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            _run(cases[done:], act, seconds, writer)
        os.close(writer)
        with open(reader, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                yield cases[done], json.loads(line)
                done += 1
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status:
            yield cases[done], LATE.get(status, f"killed: {status}")
            done += 1


def _run(cases: Sequence[C], act: Callable[[C], str], seconds: int, writer: int) -> None:
    """In a fork: act on the cases until one hangs or ends the process."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for number in LATE:
        signal.signal(-number, signal.SIG_DFL)
    status = 99
    try:
        for case in cases:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.alarm(WAIT * seconds)
            try:
                outcome = act(case)
            except UserError as error:
                outcome = _described(error)
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"traceback: {type(error).__name__} at {last.filename}:{last.lineno}"
            os.write(writer, f"{json.dumps(outcome)}\n".encode())
        status = 0
    finally:
        os._exit(status)


def _described(error: UserError) -> str:
    try:
        text = str(error)
    except Exception as broken:
        return f"traceback: of the message: {broken}"
    if len(text) > CHARACTERS or text.count("\n") > LINES:
        return f"long message: {len(text)} characters, {text.count(chr(10))} lines"
    return "refused"
