"""Records of single files: sizes and checksums, taken while they were written.

{name}.record.json is beside {name}. It outlives a kill, so that who resumes need not read the file
again, and `write_manifest` takes the checksums from it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edm2.runtime.checked_json import read_checked, write_checked

RECORD_ENDING = ".record.json"
REMEDY = "Remove it with the file that it describes, and run the stage again."
Entry = dict[str, Any]  # bytes, sha256, and what else is known of a file


def record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD_ENDING)


def write_record(path: Path, entries: Mapping[str, Entry], **metadata: Any) -> None:
    """Write the record of `path`.

    Args:
        entries: of `path` and files that belong to it, by name: at least `bytes` and `sha256`.
        metadata: what else its producer knows, as JSON.
    """
    write_checked(record_path(path), {**metadata, "files": entries}, path.name)


def read_record(path: Path) -> dict[str, Any]:
    """The record of `path`: its producer's metadata, and entries by name under "files".

    Raises:
        UserError: there is none, or it is damaged.
    """
    missing = f"It belongs to {path}: run the stage that makes both."
    return read_checked(record_path(path), missing, REMEDY, path.name)


def recorded_entries(paths: Iterable[Path]) -> dict[Path, Entry]:
    """The entries of all files that the records among `paths` describe."""
    files = [
        path.with_name(path.name.removesuffix(RECORD_ENDING)) for path in paths if _is_record(path)
    ]
    return {
        file.with_name(name): entry
        for file in files
        for name, entry in read_record(file)["files"].items()
    }


def _is_record(path: Path) -> bool:
    return path.name.endswith(RECORD_ENDING)
