"""How commands and stages end after an error: what is printed, by which rank, and the exit status.

A sentence for a mistake of the user or an error of the machine; with EDM2_TRACEBACK=1 the traceback as well.
Everything else is a bug, and always has its traceback.
"""

import io
import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from edm2.params.errors import UserError
from edm2.runtime import peers
from edm2.runtime.interruption import Interrupted, signals
from edm2.runtime.system_errors import TRACEBACK, breaks_connection, explain, first_line

REPORT = "TORCHELASTIC_ERROR_FILE"  # what a process writes there is shown by torchrun
SECONDS_FOR_MAIN_PROCESS = 10.0
SIGNALED = 128  # exit statuses above are those of signals


def report(name: str, error: BaseException) -> int:
    """Print why this process ends, once for all ranks; return its exit status.

    A sentence, or the traceback of a bug. The first rank that fails prints; the others end with its status.
    Ranks that are not connected yet mostly fail in the same way: the main process says so, and the launcher
    then ends the others, which wait for that. torchrun shows the message of whoever exits first at the end
    of its own report.

    Args:
        name: of the stage or command.
    """
    group = peers.current()
    if group is None:
        status, message = _describe(error)
        if is_main_process() or (status < SIGNALED and _wait_for_main_process()):
            _print(name, message, error)
        return status
    # the launcher sends a signal as soon as another rank has ended
    with suppress(Interrupted), signals():
        status, message = _describe_to_all(group, error)
        if group.is_first_to_fail():
            text = _print(name, message, error)
            group.publish(status, text)
        failure = group.first_failure()
    return status if failure is None else failure.status


def _wait_for_main_process() -> bool:
    """Whether nothing has ended this process meanwhile."""
    try:
        time.sleep(SECONDS_FOR_MAIN_PROCESS)
    except (Interrupted, KeyboardInterrupt):
        return False
    return True


def _describe_to_all(group: peers.Peers, error: BaseException) -> tuple[int, str | None]:
    """As below, once it is clear whether another rank is the reason."""
    status, message = _describe(error)
    if isinstance(error, peers.LateRankError):
        return status, f"rank {group.rank}: {error}. {group.places()}"
    if breaks_connection(error):
        if group.first_failure(peers.GRACE) is None:
            message = f"rank {group.rank}: {first_line(error)}. {group.places()}"
    elif status > SIGNALED:
        group.first_failure(2 * group.interval)  # the launcher's signal, because a rank was killed?
    return status, message


def _print(name: str, message: str | None, error: BaseException) -> str:
    """Print the message, or the traceback if there is none; return the message, or what was raised."""
    if message is None or (os.environ.get(TRACEBACK) and isinstance(error, Exception)):
        traceback.print_exception(error)
    if message is not None:
        print(f"{name}: {message}", file=sys.stderr)
    text = f"{name}: {message or traceback.format_exception_only(error)[-1].strip()}"
    path = os.environ.get(REPORT)
    if path:
        note = {"message": text, "timestamp": int(time.time())}
        Path(path).write_text(json.dumps(note), encoding="utf-8")
    return text


def _describe(error: BaseException) -> tuple[int, str | None]:
    """Exit status and message; without a message the error is a bug."""
    if isinstance(error, Interrupted):
        return error.status, f"{error}; run the same command again to continue."
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; run the same command again to continue."
    message = explain(error) or (str(error) if isinstance(error, UserError) else None)
    return (1, None) if message is None else (2, message)


def is_main_process() -> bool:
    """As in `edm2.runtime.distributed`, without importing torch, which takes seconds."""
    return os.environ.get("RANK", "0") == "0"


def prepare_streams() -> None:
    """Let output be printed whatever the encoding is: other characters as escapes, like \\u03c3.

    A closed stream takes output without effect. When another rank or the launcher has ended, PyTorch would
    print pages of frames of its C++ code before our sentence; it reads its level when it is imported.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
