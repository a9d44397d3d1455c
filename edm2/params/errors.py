"""What a user can mend."""

from dataclasses import dataclass
from typing import Any


class UserError(Exception):
    """Something that the user gave is wrong: a value, a file, a device.

    The message names the place, the value, what was expected and the way out. Commands print it
    without a traceback and exit with status 2.
    """


@dataclass(frozen=True)
class Problem:
    """One wrong value: its key path, the value, what is allowed, and what to do."""

    key: str
    value: Any
    allowed: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value!r}: expected {self.allowed}. {self.remedy}"
