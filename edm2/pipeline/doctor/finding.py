"""What a check finds, how it words an error, and the folder for what is moved aside."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ASIDE = Path(".dvc/tmp/doctor")  # neither git nor DVC looks there


@dataclass(frozen=True)
class Finding:
    """Something that is broken, left half done, or missing.

    Attributes:
        place: a file, mostly below the project's root, or what else is wrong.
        problem: what is wrong with it.
        meaning: what follows from that, as a sentence.
        remedy: what the user can do, as sentences.
        repair: does it, and says what it has done; None if that needs a decision, or could lose something.
    """

    place: Path | str
    problem: str
    meaning: str
    remedy: str
    repair: Callable[[], str] | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}. {self.meaning} {self.remedy}".rstrip()


Check = Callable[[], Iterable[Finding]]


def reason(error: Exception, place: object) -> str:
    """What is wrong with a file, from the error of reading it: without its name and the way out."""
    return str(error).removeprefix(f"{place}:").strip().split(". ")[0].rstrip(".")


def set_aside(path: Path) -> str:
    """Move a file or folder to `ASIDE`, under its path; say so."""
    relative = path.relative_to(path.anchor) if path.is_absolute() else path
    names = (ASIDE / f"{relative}{f'.{number}' if number else ''}" for number in count())
    target = next(name for name in names if not (name.exists() or name.is_symlink()))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    return f"moved to {target}"
