"""JSON that has a checksum of itself: manifests, records and notes, and the lines of logs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.runtime.files import require_sha256, write_json
from edm2.runtime.limits import parse_json, require_file, shown

KEY = "sha256"  # of the checksum, beside the content
LINE_DIGITS = 16  # of the checksum of a line


def write_checked(path: Path, content: Mapping[str, Any], owner: str = "") -> None:
    """
    Args:
        owner: whose file it is, where others have one of this name; the checksum depends on it.
    """
    write_json(path, {KEY: _content_sha256(content, owner), **content})


class CheckedContent(dict[str, Any]):
    """What a file has. A key that it has not is an error of the file, which is of another kind then."""

    def __init__(self, content: Mapping[str, Any], path: Path, remedy: str) -> None:
        super().__init__(content)
        self.path, self.remedy = path, remedy

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path}: has no {key}: a file of another kind. {self.remedy}")


def read_checked(path: Path, missing: str, remedy: str, owner: str = "") -> CheckedContent:
    """What `write_checked` wrote, without the checksum.

    Args:
        missing, remedy: what to do if the file does not exist, or is damaged.
        owner: as it was when the file was written.

    Raises:
        UserError: there is no such file, it is not valid JSON, or it is not as it was written.
    """
    try:
        require_file(path)
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist. {missing}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({shown(str(error))}). {remedy}") from None
    expected = content.pop(KEY, None) if isinstance(content, dict) else None
    if not isinstance(expected, str):
        raise UserError(
            f"{path}: has no checksum of its own: damaged, of an earlier version, or of another "
            f"program. {remedy}"
        )
    require_sha256(path, _content_sha256(content, owner), expected, "that it has of itself", remedy)
    return CheckedContent(content, path, remedy)


def checked_line(content: Mapping[str, Any], before: str) -> tuple[str, str]:
    """A line of JSON with its checksum, and that checksum.

    Args:
        before: the checksum depends on this: that of the line before it, for example.
    """
    checksum = _content_sha256(content, before)[:LINE_DIGITS]
    return json.dumps({**content, KEY: checksum}) + "\n", checksum


def read_checked_line(line: bytes, before: str) -> tuple[dict[str, Any], str]:
    """The content of a line and its checksum.

    Args:
        before: as it was when the line was written.

    Raises:
        ValueError: the line is not as it was written.
    """
    content = parse_json(line)
    checksum = content.pop(KEY, None) if isinstance(content, dict) else None
    if not isinstance(checksum, str) or checked_line(content, before)[1] != checksum:
        raise ValueError("not as it was written")
    return content, checksum


def _content_sha256(content: Mapping[str, Any], owner: str) -> str:
    """Checksum of the content, however it is formatted, and of its owner."""
    return hashlib.sha256((owner + json.dumps(content, sort_keys=True)).encode()).hexdigest()
