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

from edm2.runtime.interruption import Interrupted

TRACEBACK = "EDM2_TRACEBACK"
REPORT = "TORCHELASTIC_ERROR_FILE"  # what a process writes there is shown by torchrun
SECONDS_FOR_MAIN_PROCESS = 10.0

ERRNO = re.compile(r"(?:os error |\[Errno )(\d+)")  # in errors of Rust, and of shutil
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
SMALLER = "Set a smaller microbatch (trainings) or sampling.batch, or use a larger device."


def explain(error: BaseException) -> str | None:
    """A sentence with the way out; None if the error is a bug."""
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return _system_error(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    reason = str(error).strip().partition("\n")[0]
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


def report(message: str, error: BaseException) -> None:
    """Print the message of an error once, with its traceback if the environment asks for it.

    The processes of one launch mostly fail in the same way. The main process says so, and the
    launcher then ends the others, which wait for that: torchrun shows the message of whoever exits
    first at the end of its own report.
    """
    with suppress(Interrupted, KeyboardInterrupt):
        if not is_main_process():
            time.sleep(SECONDS_FOR_MAIN_PROCESS)
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        print(message, file=sys.stderr)
        path = os.environ.get(REPORT)
        if path:
            note = {"message": message, "timestamp": int(time.time())}
            Path(path).write_text(json.dumps(note), encoding="utf-8")


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
    return (
        f"the package {package} is not installed. Install the pipeline's packages: "
        "pip install 'edm2[pipeline]'"
    )
