"""Errors that come from the surroundings and not from a bug: full disks, missing rights or packages.

Commands and stages print a sentence for them. With EDM2_TRACEBACK=1 the traceback is printed as well;
what is not explained here is a bug, and always has its traceback.
"""

import errno
import io
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from edm2.params.errors import UserError
from edm2.runtime import peers
from edm2.runtime.interruption import Interrupted, signals

TRACEBACK = "EDM2_TRACEBACK"
REPORT = "TORCHELASTIC_ERROR_FILE"  # what a process writes there is shown by torchrun
SECONDS_FOR_MAIN_PROCESS = 10.0
SIGNALED = 128  # exit statuses above are those of signals

ERRNO = re.compile(r"(?:os error |\[Errno )(\d+)")  # in errors of Rust, and of shutil
EXTRAS = {"diffusers": "sd", "datasets": "hf", "huggingface_hub": "hub"}  # of optional packages
SYSTEM_FIXES = {
    errno.ENOSPC: "Free space on that disk.",
    errno.EDQUOT: "Free space within your quota.",
    errno.EROFS: "Use a folder that can be written.",
    errno.EACCES: "Change its permissions, or use another folder.",
    errno.EPERM: "Change its permissions, or use another folder.",
    errno.ENAMETOOLONG: "Use a shorter path.",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f).",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Close other programs: the system has too many open files.",
    errno.ENOMEM: "Close other programs, or use smaller batches.",
    errno.EIO: "Check the disk, and run `edm2 verify`: it names the files that are damaged.",
    errno.ESTALE: "Check the network's file system, and run `edm2 verify`.",
    errno.ELOOP: "Remove the link that points to itself.",
    errno.ENOTDIR: "Remove the file that has the name of a folder.",
    errno.EISDIR: "Remove the folder that has the name of a file.",
    errno.EEXIST: "Remove it, or use another folder.",
    errno.ENOENT: f"Restore it, or run `dvc repro`; {TRACEBACK}=1 shows where it was needed.",
    errno.EPIPE: "What read the output has stopped; run the same command again to continue.",
}
FEWER_WORKERS = (
    "If memory ran out, set runtime.workers lower, or allow more shared memory (/dev/shm; docker: "
    "--shm-size). Then run the same command again to continue."
)
# in errors of collectives, of Gloo, NCCL and PyTorch's store
CONNECTION = re.compile(r"gloo|NCCL|nccl|[Cc]onnection|[Tt]imed out|Broken pipe|another rank")
SMALLER = "Set a smaller microbatch (trainings) or sampling.batch, or use a larger device."


def explain(error: BaseException) -> str | None:
    """A sentence with the way out; None if the error is a bug."""
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return _system_error(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    reason = _first_line(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"not enough memory ({reason or 'out of memory'}). {SMALLER}"
    if isinstance(error, RuntimeError) and "can't allocate memory" in reason:
        return f"not enough memory ({reason}). {SMALLER}"
    if isinstance(error, RuntimeError) and reason.startswith("DataLoader worker"):
        return f"a worker process ended ({reason}). {FEWER_WORKERS}"
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return (
            f"runtime.compile: torch.compile failed ({reason}). Install a C++ compiler, like g++, or "
            "set runtime.compile to false."
        )
    return None


def breaks_connection(error: BaseException) -> bool:
    """Whether an error is one of collectives, which rarely say why: mostly another rank has ended."""
    return isinstance(error, RuntimeError) and CONNECTION.search(str(error)) is not None


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
            message = f"rank {group.rank}: {_first_line(error)}. {group.places()}"
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
    message = str(error) if isinstance(error, UserError) else explain(error)
    return (1, None) if message is None else (2, message)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def is_main_process() -> bool:
    """As in `edm2.runtime.distributed`, without importing torch, which takes seconds."""
    return os.environ.get("RANK", "0") == "0"


def prepare_streams() -> None:
    """Let output be printed whatever the encoding is: other characters as escapes, like \\u03c3.

    A closed stream takes output without effect.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _system_error(error: BaseException) -> str | None:
    number = getattr(error, "errno", None)
    match = ERRNO.search(str(error))
    if number is None and match:
        number = int(match.group(1))
    if number not in SYSTEM_FIXES:
        return None
    place = getattr(error, "filename", None) or next(_notes(error), "the output")
    if isinstance(place, bytes):
        place = os.fsdecode(place)
    return f"{place}: {os.strerror(number)}. {SYSTEM_FIXES[number]}"


def _notes(error: BaseException) -> Iterator[str]:
    """The files that were being written; see `edm2.runtime.files.replacing`."""
    for note in getattr(error, "__notes__", ()):
        yield note.removeprefix("while writing ")


def _missing_package(error: ModuleNotFoundError) -> str | None:
    package = (error.name or "edm2").partition(".")[0]
    if find_spec(package) is not None:
        return None  # a bug here, or an incompatible version
    extra = EXTRAS.get(package, "pipeline")
    return (
        f"the package {package} is not installed. Install the packages of the extra {extra}: "
        f"pip install 'edm2[{extra}]'"
    )
