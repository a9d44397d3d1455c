"""Counts of files by reason, with the names of some: what is left out of the images, and what is doubtful."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from edm2.runtime.limits import MAX_NAME

EXAMPLES = 3  # names that are printed for a reason
MAX_LINES = 1000  # of a list of files in an error
FOREIGN = "hidden, or of another program"
NOT_AN_IMAGE = "not an image of a known format"
OTHER_ENDING = "without the ending of an image"
OF_PROGRAMS = {
    "__macosx",
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}


class Tally:
    """Files by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(printable(name))

    def update(self, other: "Tally") -> None:
        """Add what another has counted."""
        self.counts.update(other.counts)
        for reason, names in other.examples.items():
            examples = self.examples.setdefault(reason, [])
            examples += names[: EXAMPLES - len(examples)]

    def as_json(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "examples": self.examples}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Tally":
        tally = cls()
        tally.counts.update(tree["counts"])
        tally.examples.update(tree["examples"])
        return tally

    def lines(self) -> list[str]:
        """One line for each reason, with its count and the first names."""
        return [
            f"{count} {reason}: {', '.join(self.examples[reason])}"
            + ", ..." * (count > len(self.examples[reason]))
            for reason, count in sorted(self.counts.items())
        ]


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by a program for itself.

    Hidden are names that start with a dot: .DS_Store, .thumbnails, AppleDouble files such as ._1.jpg.
    """
    return name.startswith(".") or name.lower() in OF_PROGRAMS


def ending(name: str) -> str:
    """What follows the last dot of a file's name, in lower case; empty without one."""
    stem, _, last = name.rpartition(".")
    return last.lower() if stem else ""


def printable(name: str) -> str:
    r"""A file name on one line: bytes that are not UTF-8 as \xe9, line breaks as \n.

    It is cut if it is longer than names can be.
    """
    name = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
    if name.isprintable():
        return name
    try:
        content = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that are no bytes of a file name
        content = name.encode("utf-8", "backslashreplace")
    text = content.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(lines: Iterable[str]) -> str:
    """Lines of an error, indented; a very long list is cut."""
    lines = list(lines)
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "".join(f"\n  {line}" for line in lines[:MAX_LINES] + more)
