"""manifest.json: what a folder of results holds, and how to see that it still does."""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.files import sha256, write_json
from edm2.runtime.progress import track

NAME = "manifest.json"
WAY_OUT = (
    "Remove it and say `dvc repro`: the stage that makes it runs again, and nothing else is lost."
)


def write_manifest(folder: Path, **facts: Any) -> None:
    """Describe the files below `folder` (size, SHA-256) together with `facts` about them."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }
    write_json(folder / NAME, {**facts, "files": files})


def read_manifest(folder: Path, optional: str = "") -> dict[str, Any]:
    """The facts about `folder`, after checking every file that it lists.

    Args:
        optional: pattern of files that may be missing.

    Raises:
        UserError: no manifest, or a file that is missing, truncated or changed, by name.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder / NAME}: not there. Run the stage that makes {folder}.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / NAME}: not valid JSON ({error}). {WAY_OUT}") from None
    files = manifest["files"]
    for name, expected in track(files.items(), f"verify {folder}", len(files), "file"):
        if (folder / name).exists() or not fnmatch(name, optional):
            _verify(folder / name, expected, folder / NAME)
    return manifest


def _verify(path: Path, expected: dict[str, Any], manifest: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: missing, though {manifest} lists it. {WAY_OUT}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise UserError(f"{path}: {size} bytes, expected {expected['bytes']}: truncated. {WAY_OUT}")
    if sha256(path) != expected["sha256"]:
        raise UserError(f"{path}: SHA-256 differs from its manifest's: corrupt. {WAY_OUT}")
