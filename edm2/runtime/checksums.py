"""Checksums of single files: `table.csv.sha256` beside `table.csv`, a line as `sha256sum` writes it.

Folders of results have a manifest instead (`edm2.runtime.manifest`).
"""

from pathlib import Path

from edm2.params import UserError
from edm2.runtime.files import sha256, write_text
from edm2.runtime.manifest import REBUILD_HINT
from edm2.runtime.system_errors import DAMAGE

CHECKSUM_ENDING = ".sha256"


def checksum_file(path: Path) -> Path:
    """Where the checksum of `path` is."""
    return path.with_name(path.name + CHECKSUM_ENDING)


def write_checksum(path: Path) -> None:
    write_text(checksum_file(path), f"{sha256(path)}  {path.name}\n")


def require_checksum(path: Path) -> Path:
    """`path`, after comparing the file with its checksum.

    Raises:
        UserError: the file or its checksum is missing, or they differ.
    """
    problem = checksum_problem(path)
    if problem:
        raise UserError(f"{problem} {REBUILD_HINT}")
    return path


def checksum_problem(path: Path) -> str:
    """What is wrong with a file that has a checksum; empty if nothing is.

    Raises:
        OSError: of the machine, not of the file.
    """
    expected = checksum_file(path)
    for needed in (path, expected):
        if not needed.is_file():
            return f"{needed}: does not exist."
    try:
        line = f"{sha256(path)}  {path.name}\n"
        written = expected.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno not in DAMAGE:
            raise  # of the machine, which says nothing about the file
        return f"{path}: it or {expected.name} cannot be read ({error.strerror})."
    if written != line:
        return f"{path}: SHA-256 differs from that in {expected.name}: changed or corrupted."
    return ""
