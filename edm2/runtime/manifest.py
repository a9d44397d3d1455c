"""manifest.json: the files of a folder of results, with a checksum of each, and metadata.

The stage that writes results hashes them once: shards while they are written (see `records`), other
files for the manifest. Stages that read them check that every file that they use exists and has its
size. Whoever reads files whole compares them with their checksums (`read_verified`, `verified`);
shards, which are read at random, are compared by `edm2 verify`. The manifest has a checksum of itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.checked_json import read_checked, write_checked
from edm2.runtime.files import require_sha256, sha256
from edm2.runtime.records import REMEDY, Entry, recorded_entries
from edm2.runtime.temporaries import is_temporary

MANIFEST = "manifest.json"
REBUILD_HINT = (
    "Remove it and run `dvc repro`: only the stage that makes it runs again. If that brings the damage back, "
    "run `edm2 doctor --fix` first."
)


def write_manifest(folder: Path, **metadata: Any) -> None:
    """List the files below `folder` with size and SHA-256, beside `metadata`.

    Files that have a record are not read; what is being written is left out.

    Raises:
        UserError: a record is damaged, or a file does not have the size in its record.
    """
    paths = [path for path in sorted(folder.rglob("*")) if not is_temporary(path)]
    files = _entries(folder, [p for p in paths if p.is_file() and p != folder / MANIFEST])
    write_checked(folder / MANIFEST, {**metadata, "files": files})


def add_to_manifest(folder: Path, paths: Iterable[Path]) -> None:
    """List these files of `folder` beside those that its manifest lists already, if it has one.

    Raises:
        UserError: the manifest is damaged.
    """
    content = load_manifest(folder) if (folder / MANIFEST).exists() else {"files": {}}
    files = content["files"] | _entries(folder, list(paths))
    write_checked(folder / MANIFEST, {**content, "files": files})


def read_manifest(folder: Path, optional: str = "") -> dict[str, Any]:
    """The manifest of `folder`, after checking that each of its files has its size.

    Args:
        optional: pattern of files that may be missing.

    Raises:
        UserError: there is no manifest, it was changed, or a file is missing or truncated; names the
            file.
    """
    manifest = load_manifest(folder)
    check_sizes(folder, manifest["files"], optional)
    return manifest


def check_sizes(folder: Path, files: Mapping[str, Entry], optional: str = "") -> None:
    """Check that each of these files of `folder` exists and has its size.

    Args:
        files: entries of its manifest by name.
        optional: pattern of files that may be missing.

    Raises:
        UserError: names the first that is missing or truncated.
    """
    for name, expected in files.items():
        if fnmatch(name, optional) and not (folder / name).is_file():
            continue
        if problem := size_problem(folder, name, expected):
            raise UserError(f"{problem} {REBUILD_HINT}")


def read_verified(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, after comparing each of its files with its checksum.

    Raises:
        UserError: see `read_manifest`; or a file is corrupted.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        compare_sha256(path, sha256(path), expected["sha256"], folder)
    return manifest


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`: its metadata, and its files under "files". No other file is read.

    Raises:
        UserError: there is no manifest, it is not valid JSON, or it is not as it was written.
    """
    missing = f"Run the stage that makes {folder}."
    return read_checked(folder / MANIFEST, missing, REBUILD_HINT)


def verified(path: Path) -> Path:
    """`path`, after comparing this one file of a folder with its checksum.

    Raises:
        UserError: the file is not the one that the manifest beside it lists under this name.
    """
    expected = expected_sha256(path)
    if expected is not None and path.is_file():
        compare_sha256(path, sha256(path), expected)
    return path


def expected_sha256(path: Path) -> str | None:
    """The file's SHA-256 in the manifest beside it; None if there is none, or it does not list it.

    Raises:
        UserError: the manifest is damaged.
    """
    if not (path.parent / MANIFEST).exists():
        return None
    checksum: str | None = load_manifest(path.parent)["files"].get(path.name, {}).get("sha256")
    return checksum


def compare_sha256(path: Path, checksum: str, expected: str, folder: Path | None = None) -> None:
    """
    Args:
        folder: that of the manifest; None: it is beside the file.

    Raises:
        UserError: the file's SHA-256 is not the one that the manifest has.
    """
    require_sha256(
        path, checksum, expected, f"as in {(folder or path.parent) / MANIFEST}", REBUILD_HINT
    )


def size_problem(folder: Path, name: str, expected: Entry) -> str:
    """Whether a listed file is missing or has another size, as a message; empty if neither."""
    path = folder / name
    if not path.is_file():
        return f"{path}: missing, though {folder / MANIFEST} lists it."
    size = path.stat().st_size
    if size != expected["bytes"]:
        return f"{path}: {size} bytes, expected {expected['bytes']}: truncated or changed."
    return ""


def _entries(folder: Path, paths: Sequence[Path]) -> dict[str, Entry]:
    recorded = recorded_entries(paths)
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _entry(folder, name, recorded.get(path)) for name, path in names.items()}


def _entry(folder: Path, name: str, recorded: Entry | None) -> Entry:
    if recorded is None:
        path = folder / name
        return {"bytes": path.stat().st_size, "sha256": sha256(path)}
    if problem := size_problem(folder, name, recorded):
        raise UserError(f"{problem} {REMEDY}")
    return recorded
