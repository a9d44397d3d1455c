"""JSON files that have a checksum of themselves: manifests, and the records of single files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.files import require_sha256, write_json
from edm2.runtime.limits import parse_json, require_file, shown


def write_checked(path: Path, content: Mapping[str, Any]) -> None:
    write_json(path, {"sha256": _content_sha256(content), **content})


def read_checked(path: Path, missing: str, remedy: str) -> dict[str, Any]:
    """What `write_checked` wrote, without the checksum.

    Args:
        missing, remedy: what to do if the file does not exist, or is damaged.

    Raises:
        UserError: there is no such file, it is not valid JSON, or it is not as it was written.
    """
    try:
        require_file(path)
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist. {missing}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({shown(str(error))}). {remedy}") from None
    expected = content.pop("sha256", None) if isinstance(content, dict) else None
    if expected is None:
        raise UserError(
            f"{path}: has no checksum of its own: damaged, of an earlier version, or of another "
            f"program. {remedy}"
        )
    require_sha256(path, _content_sha256(content), expected, "that it has of itself", remedy)
    return content


def _content_sha256(content: Mapping[str, Any]) -> str:
    """Checksum of the content, however it is formatted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
