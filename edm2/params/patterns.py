"""Patterns of file names, for lists of shards."""

import re
from glob import escape, glob
from math import prod
from os.path import exists, isfile
from pathlib import Path

MAX_ALTERNATIVES = 250_000  # LAION-5B has 232,320 tars
INNERMOST = re.compile(r"\{([^{}]*)\}")
SEQUENCE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?(\d+))?")


def alternatives(pattern: str, root: Path) -> dict[str, list[Path]]:
    """The files of each alternative of a pattern.

    Braces list alternatives, {00000..00099} or {a,b}; each should have files. *, ? and [] match
    any files. Relative patterns start from `root`.

    Raises:
        ValueError: braces that are not closed, or too many alternatives.
    """
    from braceexpand import braceexpand

    if alternatives_of(pattern) > MAX_ALTERNATIVES:
        raise ValueError(f"Its braces stand for more than {MAX_ALTERNATIVES:,} files")
    return {
        name: [Path(path) for path in sorted(glob(_below(root, name))) if isfile(path)]
        for name in braceexpand(pattern)
    }


def alternatives_of(pattern: str) -> int:
    """How many alternatives the braces of a pattern have, without making them."""

    def count_of(braces: re.Match[str]) -> str:
        if sequence := SEQUENCE.fullmatch(braces[1]):
            first, last = (ord(end) if end.isalpha() else int(end) for end in sequence.groups()[:2])
            return f"<{abs(last - first) // max(1, int(sequence[3] or 1)) + 1}>"
        return f"<{sum(map(_product, braces[1].split(',')))}>"

    pattern = pattern.replace("<", "").replace(">", "")  # which hold counts from here on
    while (simpler := INNERMOST.sub(count_of, pattern)) != pattern:
        pattern = simpler
    return _product(pattern)


def _product(text: str) -> int:
    return prod(map(int, re.findall(r"<(\d+)>", text)))


def are_tars(path: Path) -> bool:
    """Whether a path or pattern of images stands for tars, and not for a folder or a zip."""
    return not path.is_dir() and path.suffix.lower() != ".zip"


def matching(pattern: str, root: Path) -> list[Path]:
    """The files of a pattern in the order of their names, each once."""
    return sorted({path for paths in alternatives(pattern, root).values() for path in paths})


def _below(root: Path, name: str) -> str:
    return name if Path(name).is_absolute() else f"{escape(str(root))}/{name}"


def hint(text: str, path: Path) -> str:
    """What is special about a path that is not what is expected."""
    if "://" in text:
        return ": download them first, only files are read"
    if text.startswith("~"):
        return f": write {Path(text).expanduser()}"
    if not exists(path):
        return ", which no file matches" if escape(path.name) != path.name else ""
    return f", which is a {_kind(path)}"


def _kind(path: Path) -> str:
    if path.is_dir() or path.is_file():
        return "folder" if path.is_dir() else "file"
    return "FIFO" if path.is_fifo() else "socket" if path.is_socket() else "device"
