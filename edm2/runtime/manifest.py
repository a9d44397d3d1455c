"""manifest.json: the files of a folder of results, with a checksum of each, and metadata.

The stage that writes results hashes them once. Stages that read them check that every file exists
and has its size. Whoever reads files whole compares them with their checksums (`read_verified`, `verified`);
shards, which are read at random, are compared by `edm2 verify`. The manifest has a checksum of itself.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.files import sha256, write_json
from edm2.runtime.progress import track

MANIFEST = "manifest.json"
REBUILD_HINT = "Remove it and run `dvc repro`: only the stage that makes it runs again."
SHOWN_DIGITS = 12  # of a checksum


def write_manifest(folder: Path, **metadata: Any) -> None:
    """List the files below `folder` with size and SHA-256, beside `metadata`."""
    paths = sorted(folder.rglob("*"))
    files = _entries(folder, (p for p in paths if p.is_file() and p != folder / MANIFEST))
    _write(folder, {**metadata, "files": files})


def add_to_manifest(folder: Path, paths: Iterable[Path]) -> None:
    """List these files of `folder` beside those that its manifest lists already, if it has one.

    Raises:
        UserError: the manifest is damaged.
    """
    content = load_manifest(folder) if (folder / MANIFEST).exists() else {"files": {}}
    _write(folder, {**content, "files": content["files"] | _entries(folder, paths)})


def read_manifest(folder: Path, optional: str = "") -> dict[str, Any]:
    """The manifest of `folder`, after checking that each of its files has its size.

    Args:
        optional: pattern of files that may be missing.

    Raises:
        UserError: there is no manifest, it was changed, or a file is missing or truncated; names the
            file.
    """
    manifest = load_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            if fnmatch(name, optional):
                continue
            raise UserError(f"{path}: missing, though {folder / MANIFEST} lists it. {REBUILD_HINT}")
        problem = _size_problem(path, expected)
        if problem:
            raise UserError(f"{problem} {REBUILD_HINT}")
    return manifest


def read_verified(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, after comparing each of its files with its checksum.

    Raises:
        UserError: see `read_manifest`; or a file is corrupted.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        _compare(path, sha256(path), expected["sha256"], f"as in {folder / MANIFEST}")
    return manifest


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`: its metadata, and its files under "files". No other file is read.

    Raises:
        UserError: there is no manifest, it is not valid JSON, or it is not as it was written.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist. Run the stage that makes {folder}.") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}). {REBUILD_HINT}") from None
    expected = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if expected is None:
        raise UserError(
            f"{path}: has no checksum of its own: damaged, of an earlier version, or of another "
            f"program. {REBUILD_HINT}"
        )
    _compare(path, _content_sha256(manifest), expected, "that it has of itself")
    return manifest


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


def compare_sha256(path: Path, found: str, expected: str) -> None:
    """
    Raises:
        UserError: the file's SHA-256 is not the one that the manifest beside it has.
    """
    _compare(path, found, expected, f"as in {path.parent / MANIFEST}")


def damaged_files(folder: Path, optional: str = "") -> Iterator[str]:
    """Read every file that the manifest lists; one message per missing or corrupted file.

    Args:
        optional: pattern of files that may be missing.
    """
    files = load_manifest(folder)["files"]
    for name, expected in track(files.items(), f"verify {folder}", len(files), "file"):
        path = folder / name
        if not path.is_file():
            if not fnmatch(name, optional):
                yield f"{path}: missing, though {folder / MANIFEST} lists it."
        elif problem := _size_problem(path, expected):
            yield problem
        elif sha256(path) != expected["sha256"]:
            yield f"{path}: SHA-256 differs from that in {MANIFEST}: corrupted."


def _entries(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in paths
    }


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_json(folder / MANIFEST, {"sha256": _content_sha256(content), **content})


def _content_sha256(content: Mapping[str, Any]) -> str:
    """Checksum of a manifest's content, however it is formatted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _compare(path: Path, found: str, expected: str, source: str) -> None:
    if found != expected:
        raise UserError(
            f"{path}: SHA-256 {found[:SHOWN_DIGITS]}…, expected {expected[:SHOWN_DIGITS]}… {source}: "
            f"corrupted, or another file. {REBUILD_HINT}"
        )


def _size_problem(path: Path, expected: dict[str, Any]) -> str:
    """What is wrong with the size of a file; empty if nothing is."""
    size = path.stat().st_size
    if size == expected["bytes"]:
        return ""
    return f"{path}: {size} bytes, expected {expected['bytes']}: truncated or changed."
