"""Errors of the machine in a sentence: full disks, missing rights, too many files, no memory, lost packages.

They come as errors of Python, and as those of libraries that wrap them (safetensors, Arrow, NumPy, PyTorch,
SQLite, MLflow), or behind the error of a file that is said to be damaged because it could not be read.
"""

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from importlib.util import find_spec
from ssl import SSLError

from edm2.params.errors import UserError

TRACEBACK = "EDM2_TRACEBACK"
WHILE_WRITING = "while writing "  # in notes of errors; the path follows
AGAIN = "Then run the same command again."
SMALLER = (
    "Close other programs, set a smaller microbatch (trainings) or sampling.batch, or use a larger "
    "device."
)
EXTRAS = {"diffusers": "sd", "datasets": "hf", "huggingface_hub": "hub"}  # of optional packages
SPACE = "Free space on that disk."
RIGHTS = "Change its permissions, or use another folder."
SYSTEM_FIXES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: "Free space within your quota.",
    errno.EROFS: "Use a folder that can be written.",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.ENAMETOOLONG: "Use a shorter path.",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f).",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Close other programs: the system has too many open files.",
    errno.ENOMEM: SMALLER,
    errno.EAGAIN: "Raise the limit of processes (ulimit -u), or close other programs.",
    errno.EIO: "Check the disk, and run `edm2 verify`: it names the files that are damaged.",
    errno.ESTALE: "Check the network's file system, and run `edm2 verify`.",
    errno.ELOOP: "Remove the link that points to itself.",
    errno.ENOTDIR: "Remove the file that has the name of a folder.",
    errno.EISDIR: "Remove the folder that has the name of a file.",
    errno.EEXIST: "Remove it, or use another folder.",
    errno.ENOTEMPTY: "Remove it, or use another folder; another program may be writing there.",
    errno.EBUSY: "Close the programs that use it, or use another folder.",
    errno.EXDEV: "Keep the folder on one file system.",
    errno.ETXTBSY: "Close the programs that use it.",
    errno.ENODEV: "Check that its disk is mounted.",
    errno.ENXIO: "Check that its disk is mounted.",
    errno.ENOTSUP: "Use another file system.",
    errno.ENOENT: f"Restore it, or run `dvc repro`; {TRACEBACK}=1 shows where it was needed.",
    errno.EPIPE: "What read the output has stopped.",
}
# what says nothing about the file whose name is in the error: the next one would fail as well
OF_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
    | {errno.EIO, errno.ESTALE}
)
DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)  # what an error says of its file
DENIED = frozenset((errno.EACCES, errno.EPERM))
SQLITE = {  # by the primary code
    sqlite3.SQLITE_FULL: (errno.ENOSPC, "database or disk is full"),
    sqlite3.SQLITE_READONLY: (errno.EROFS, "attempt to write a readonly database"),
    sqlite3.SQLITE_CANTOPEN: (errno.EACCES, "unable to open database file"),
    sqlite3.SQLITE_IOERR: (errno.EIO, "disk I/O error"),
    sqlite3.SQLITE_NOMEM: (errno.ENOMEM, "out of memory"),
}
UNFINISHED = "could not be written completely"
PATTERNS = (  # of errors without a number: what is wrong, and the way out; "{}" is their first line
    (
        r"\d+ requested and \d+ written|inline_container.cc.*unexpected pos|PytorchStreamWriter failed"
        r"|when writing image file",
        f"{UNFINISHED} ({{}})",
        "Free space on that disk, or within your quota.",
    ),
    (
        r"can't allocate memory|out of memory|CU\w+_STATUS_ALLOC_FAILED|bad_alloc|not enough memory",
        "not enough memory ({})",
        SMALLER,
    ),
    (r"can't start new thread", "{}", "Raise the limit of processes (ulimit -u)."),
    (
        r"^DataLoader worker",
        "a worker process ended ({})",
        "If memory ran out, set runtime.workers lower, or allow more shared memory (/dev/shm; docker: "
        "--shm-size).",
    ),
)
NUMBER = re.compile(r"(?:os error |\[errno )(\d+)", re.IGNORECASE)  # of Rust, Arrow and shutil
WRAPPING = ("safetensors", "safetensors_rust", "pyarrow", "mlflow", "sqlalchemy")  # packages
# in errors of collectives, of Gloo, NCCL and PyTorch's store
CONNECTION = re.compile(r"gloo|NCCL|nccl|[Cc]onnection|[Tt]imed out|Broken pipe|another rank")


def explain(error: BaseException) -> str | None:
    """A sentence with path, reason and way out; None if the error is a bug, or a mistake of the user.

    A mistake that was found because of an error of the machine, like a file that could not be read because
    too many were open, is that error.
    """
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    reason = first_line(error)
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return (
            f"runtime.compile: torch.compile failed ({reason}). Install a C++ compiler, like g++, or "
            "set runtime.compile to false."
        )
    if isinstance(error, UserError):
        behind = [each for each in _chain(error, "__context__") if is_of_machine(each, DENIED)]
        place = reason.partition(": ")[0]
        return _sentence(behind[0], _noted(behind[0]) or place) if behind else None
    sentences = (_sentence(each, _noted(error)) for each in _chain(error, "__cause__", "orig"))
    return next(filter(None, sentences), None)


def is_of_machine(error: BaseException, others: frozenset[int] = frozenset()) -> bool:
    """Whether an error says nothing about a file, so that it must not be called damaged or missing.

    Args:
        others: numbers that count as well.
    """
    return isinstance(error, MemoryError) or _number(error) in OF_MACHINE | others


def breaks_connection(error: BaseException) -> bool:
    """Whether an error is one of collectives, which rarely say why: mostly another rank has ended."""
    return isinstance(error, RuntimeError) and CONNECTION.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _chain(error: BaseException, *links: str) -> Iterator[BaseException]:
    """An error and those that it names by these attributes."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while isinstance(each, BaseException) and each not in seen:
        seen.append(each)
        yield each
        each = next(filter(None, (getattr(seen[-1], link, None) for link in links)), None)


def _sentence(error: BaseException, place: str) -> str | None:
    """
    Args:
        place: the path, if the error has none.
    """
    reason = first_line(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"not enough memory ({reason or 'out of memory'}). {SMALLER} {AGAIN}"
    if isinstance(error, OSError | RuntimeError) and getattr(error, "errno", None) is None:
        for pattern, cause, fix in PATTERNS:
            if re.search(pattern, reason):
                where = f"{place or 'a file'}: " if cause.startswith(UNFINISHED) else ""
                return f"{where}{cause.format(reason)}. {fix} {AGAIN}"
    number = _number(error)
    if number not in SYSTEM_FIXES:
        return None
    return f"{_path(error) or place or 'a file'}: {os.strerror(number)}. {SYSTEM_FIXES[number]} {AGAIN}"


def _number(error: BaseException) -> int | None:
    """The system's number of an error, as far as it is known."""
    if isinstance(error, SSLError):
        return None  # its numbers are those of another library
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None):
        return SQLITE.get(error.sqlite_errorcode & 0xFF, (None, ""))[0]
    wraps = type(error).__module__.partition(".")[0] in WRAPPING
    if not (wraps or isinstance(error, OSError | RuntimeError | ImportError | sqlite3.Error)):
        return None
    text = str(error)
    if match := NUMBER.search(text):
        return int(match[1])
    if breaks_connection(error):
        return None
    named = [(number, os.strerror(number)) for number in OF_MACHINE | DENIED]
    if not isinstance(error, RuntimeError):
        named += SQLITE.values()
    return next((number for number, words in named if words in text), None)


def _path(error: BaseException) -> str:
    """The file that an error names; not a temporary one, whose place is in the notes."""
    names = [getattr(error, "filename2", None), getattr(error, "filename", None)]
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        names = [error.args[0][0][1]]
    paths = [os.fsdecode(name) for name in names if isinstance(name, str | bytes | os.PathLike)]
    lasting = [path for path in paths if ".partial" not in path]
    return lasting[0] if lasting else (paths[0] if paths and not _noted(error) else "")


def _noted(error: BaseException) -> str:
    """The file that was being written; see `edm2.runtime.files.replacing`."""
    notes = (note for note in getattr(error, "__notes__", ()) if note.startswith(WHILE_WRITING))
    return next(notes, "").removeprefix(WHILE_WRITING)


def _missing_package(error: ModuleNotFoundError) -> str | None:
    package = (error.name or "edm2").partition(".")[0]
    if find_spec(package) is not None:
        return None  # a bug here, or an incompatible version
    extra = EXTRAS.get(package, "pipeline")
    return (
        f"the package {package} is not installed. Install the packages of the extra {extra}: "
        f"pip install 'edm2[{extra}]'"
    )
