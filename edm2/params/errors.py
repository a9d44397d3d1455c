"""Errors that a user can fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_VALUE = 200  # characters of a wrong value in a message
MAX_TEXT = 2000  # characters of what was expected, and of what to do
MAX_PROBLEMS = 20  # in a message


class UserError(Exception):
    """Something that the user provided is wrong: a value, a file, a device.

    The message says what is wrong, where, what was expected, and what to do. Commands print it
    without a traceback and exit with status 2.
    """


class NotFiniteError(UserError):
    """A NaN or an infinity, where it would have become an image, a latent, a feature or a result.

    The message says what is not finite, where, and what to do.

    Attributes:
        tensor: name of the tensor that has them, if it has one.
    """

    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.tensor = tensor


class OutOfRangeError(UserError):
    """Finite values, but so far from those of images that clipping them would hide a diverged network.

    The message says which ones, and what to do.
    """


@dataclass(frozen=True)
class Problem:
    """One wrong value of the params.

    Attributes:
        key: path of the field, like diffusion.lr_ref.
        allowed: what was expected, after "expected".
        fix: what to do, as a sentence.
    """

    key: str
    value: Any
    allowed: str
    fix: str

    def __str__(self) -> str:
        key, value = cut(self.key, MAX_VALUE), cut(repr(self.value), MAX_VALUE)
        allowed, fix = cut(self.allowed, MAX_TEXT), cut(self.fix, MAX_TEXT)
        return f"{key}: {value}: expected {allowed}. {fix}".rstrip()


def cut(text: str, length: int) -> str:
    """The beginning of a text; "..." for the rest."""
    return text if len(text) <= length else f"{text[:length]} ..."


class ParamsError(UserError):
    """A params file with problems; the message has one line for each of the first ones."""

    def __init__(self, file: object, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"{file} has problems:", *(f"  {p}" for p in problems[:MAX_PROBLEMS])]
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"  and {len(problems) - MAX_PROBLEMS} more.")
        super().__init__("\n".join(lines))
