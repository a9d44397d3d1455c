"""JSON that has a checksum of itself: manifests, records and notes, and the lines of logs."""

import hashlib
import json
from collections.abc import Iterator, Mapping
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


def read_checked(path: Path, missing: str, remedy: str, owner: str = "") -> dict[str, Any]:
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
    return dict(content)


def checked_line(content: Mapping[str, Any], before: str = "") -> tuple[str, str]:
    """A line of JSON with its checksum, and that checksum.

    Args:
        before: the checksum of the line before it, on which this one depends.
    """
    checksum = _content_sha256(content, before)[:LINE_DIGITS]
    return json.dumps({**content, KEY: checksum}) + "\n", checksum


def read_checked_lines(path: Path, remedy: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The content and the checksum of each complete line of a file of `checked_line`.

    The last line is incomplete if the process that wrote it was killed.

    Args:
        remedy: what to do if a line is damaged.

    Raises:
        UserError: a line is not as it was written, or does not follow the one before it.
    """
    before = ""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                content, checksum = _parse_line(line)
                if content is None or checked_line(content, before)[1] != checksum:
                    raise UserError(
                        f"{path}: line {number}: not as it was written, or not after the line that was "
                        f"before it: damaged, or of an earlier version. {remedy}"
                    )
                yield content, checksum
                before = checksum


def _parse_line(line: bytes) -> tuple[dict[str, Any] | None, Any]:
    """Content and checksum; None for the content if it is none."""
    try:
        content = parse_json(line)
    except ValueError:
        return None, None
    return (content, content.pop(KEY, None)) if isinstance(content, dict) else (None, None)


def _content_sha256(content: Mapping[str, Any], owner: str) -> str:
    """Checksum of the content, however it is formatted, and of its owner."""
    return hashlib.sha256((owner + json.dumps(content, sort_keys=True)).encode()).hexdigest()
