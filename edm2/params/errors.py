"""Errors that a user can fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_VALUE = 200  # characters of a wrong value in a message


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
        value = repr(self.value)
        if len(value) > MAX_VALUE:
            value = f"{value[:MAX_VALUE]} ..."
        return f"{self.key}: {value}: expected {self.allowed}. {self.fix}".rstrip()


class ParamsError(UserError):
    """A params file with problems; the message has one line for each."""

    def __init__(self, file: object, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"{file} has problems:", *(f"  {problem}" for problem in problems)]
        super().__init__("\n".join(lines))
