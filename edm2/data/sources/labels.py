"""Labels that are read from files: numbers or texts."""

import re
from array import array

import numpy as np
from numpy.typing import NDArray

from edm2.data.tally import printable

SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON can have them alone; no file can


class Labels:
    """The labels of images, one after the other: whole numbers from 0, or texts, but not both.

    Attributes:
        problems: an error for each label that is neither.
    """

    def __init__(self, count: int | None = None) -> None:
        """
        Args:
            count: number of classes, if labels are known to be numbers below that.
        """
        self.count = count
        self.problems: list[str] = []
        self._values = array("q")
        self._texts: dict[str, int] = {}
        self._first_number = ""

    @property
    def numbered(self) -> bool:
        return not self._texts

    def add(self, label: object, name: str) -> None:
        """The label of the next image, whose name is for errors."""
        value, limit = 0, self.count or 2**31
        if isinstance(label, str) and label and self.count is None and not SURROGATE.search(label):
            value = self._texts.setdefault(label, len(self._texts))
        elif isinstance(label, int) and not isinstance(label, bool) and 0 <= label < limit:
            value = label
            self._first_number = self._first_number or name
        else:
            to = f"from 0 to {limit - 1}" if self.count else "from 0, or a text"
            self.problems.append(
                f"{name}: label {printable(repr(label)[:80])}: expected a whole number {to}"
            )
        if self._first_number and self._texts and not self.problems:
            self.problems.append(
                f"{self._first_number if isinstance(label, str) else name}: its label is a number, and "
                "other labels are texts. Use one of the two"
            )
        self._values.append(value)

    def finish(self) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the classes, and labels int64 [N]. Texts are sorted; numbers are their own names."""
        values = np.array(self._values, dtype=np.int64)
        if self._texts:
            classes = sorted(self._texts)
            order = np.empty(len(classes), dtype=np.int64)
            order[[self._texts[name] for name in classes]] = np.arange(len(classes))
            return classes, order[values] if not self.problems else values
        count = int(values.max(initial=-1)) + 1
        if self.count is None and count > len(values):
            self.problems.append(
                f"labels go up to {count - 1}, and there are {len(values)} images. Number the classes "
                "from 0 without gaps"
            )
            count = 0
        return [str(label) for label in range(count)], values
