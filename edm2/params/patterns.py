"""Patterns of file names, for lists of shards."""

from glob import escape, glob
from pathlib import Path


def alternatives(pattern: str, root: Path) -> dict[str, list[Path]]:
    """The files of each alternative of a pattern.

    Braces list alternatives, {00000..00099} or {a,b}; each should have files. *, ? and [] match
    any files. Relative patterns start from `root`.

    Raises:
        ValueError: braces that are not closed.
    """
    from braceexpand import braceexpand

    return {
        name: [path for path in map(Path, sorted(glob(_below(root, name)))) if path.is_file()]
        for name in braceexpand(pattern)
    }


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
    if escape(path.name) != path.name and not path.exists():
        return ", which no file matches"
    return f", which is a {_kind(path)}" if path.exists() else ""


def _kind(path: Path) -> str:
    if path.is_dir() or path.is_file():
        return "folder" if path.is_dir() else "file"
    return "FIFO" if path.is_fifo() else "socket" if path.is_socket() else "device"
