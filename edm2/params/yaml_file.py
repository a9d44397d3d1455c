"""Reading YAML files: errors name the place and the way out."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from edm2.params.errors import UserError
from edm2.params.tree_size import MAX_BYTES, require_bounded

BOMS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
CONFLICT = re.compile(r"^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)
BEFORE = ("while scanning a simple key", "while scanning a quoted", "while parsing a flow")
FIXES = (  # by a part of the parser's message
    ("duplicate key", "Keep only one of the two."),
    (r"'\t'", "Indent with spaces: YAML takes no tabs."),
    ("mapping values are not allowed", "Indent it as its neighbors, and quote text with a colon."),
    ("could not find expected ':'", "Write `key: value`, with a space after the colon."),
    ("another document", "Remove the line `---`: a file holds one document."),
    ("undefined alias", "Quote text that starts with *."),
    ("constructor for the tag", "Quote text that starts with !, and remove other tags."),
    ("unhashable key", "Quote text with braces."),
    ("cannot start any token", "Quote text that starts with this character."),
    ("expected <block end>", "Indent it as the lines of its section, and close quotes above it."),
    ("expected ',' or", "Close the bracket, or quote the text in it."),
    ("stream end", "Close the quotes or brackets."),
    ("end of stream", "Close the quotes or brackets."),
)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, or is not text in UTF-8.
    """
    try:
        mode, size = os.stat(path).st_mode, os.stat(path).st_size
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # folders cannot be read
            raise UserError(f"{path}: a pipe, socket or device. Expected a file: name one.")
        if size > MAX_BYTES:
            raise UserError(
                f"{path}: {size:,} bytes. Expected at most {MAX_BYTES:,}: name a file of params."
            )
        content = path.read_bytes()
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        expected = "an existing file" if missing else "a file that can be read"
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Expected {expected}: check its name, "
            "folder and permissions."
        ) from None
    for bom, encoding in BOMS:
        if content.startswith(bom):
            raise UserError(f"{path}: is text in {encoding}, expected UTF-8. Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place(content[: error.start].decode("utf-8-sig", "replace"))
        raise UserError(
            f"{path}:{place}: the byte 0x{content[error.start]:02x} is not UTF-8. Save the file as "
            "UTF-8; from Windows: iconv -f CP1252 -t UTF-8."
        ) from None


def read_yaml(path: Path) -> Any:
    """The tree of a file, in YAML 1.2 as DVC reads it.

    Raises:
        UserError: it cannot be read, or is not YAML.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, name: str, yaml: YAML | None = None) -> Any:
    """The tree of a text.

    Args:
        name: of the file, for errors.
        yaml: another parser than the safe one.

    Raises:
        UserError: it is not YAML, or too large.
    """
    conflict = CONFLICT.search(text)
    if conflict:
        raise UserError(
            f"{name}:{_place(text[: conflict.start()])}: holds the marks of a merge conflict. "
            "Keep one of the two versions."
        )
    try:
        return require_bounded((yaml or YAML(typ="safe")).load(text), name)
    except ReaderError as error:
        raise UserError(
            f"{name}:{_place(text[: error.position])}: the character {error.character:#06x} is not "
            "allowed in YAML. Remove it, or save the file as UTF-8 text."
        ) from None
    except MarkedYAMLError as error:
        raise UserError(f"{name}{_problem(error, text)}") from None
    except (YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        reason = str(error).partition("\n")[0].partition(";")[0]
        raise UserError(f"{name}: not valid YAML ({reason}). Remove that value.") from None


def _problem(error: MarkedYAMLError, text: str) -> str:
    """Place, problem and way out of a parser's error, in one line."""
    starts_before = str(error.context).startswith(BEFORE)
    mark = error.context_mark if starts_before else error.problem_mark
    problem = str(error.problem or error.context)
    if mark is None:
        return f": not valid YAML: {problem}."
    lines = [*text.splitlines(), ""]  # an error may be at the end
    if "\N{NO-BREAK SPACE}" in lines[min(mark.line, len(lines) - 1)]:
        fix = "Replace the no-break spaces in this line by spaces."
    else:
        fix = next((fix for part, fix in FIXES if part in problem), "See the lines around it.")
    return f":{mark.line + 1}:{mark.column + 1}: not valid YAML: {problem}. {fix}"


def _place(before: str) -> str:
    """Line and column of what follows the text `before`, like 3:7."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"{len(lines)}:{len(lines[-1]) + 1}"
