"""Lists of numbers, written as a list or as a range."""

import re
from decimal import Decimal
from typing import Any

RANGE = re.compile(r"\s*([0-9.eE+-]+?)\s*(?:…|\.\.\.)\s*([0-9.eE+-]+)\s+by\s+([0-9.eE+-]+)\s*")


MAX_POINTS = 10_000  # more points mean a mistake in the step
MAX_TEXT = 200  # characters


def parse_grid(value: Any) -> Any:
    """A list stays as it is; "0.02...0.24 by 0.02" becomes all its points, both ends included.

    Decimal arithmetic, so that 0.02 … 0.24 by 0.02 ends at exactly 0.24; integers stay integers.
    Other values are returned as they are, for the type check of the field.

    Raises:
        ValueError: the text is not a range, does not ascend, or has more than MAX_POINTS points.
    """
    if not isinstance(value, str):
        return value
    match = RANGE.fullmatch(value) if len(value) <= MAX_TEXT else None
    if match is None:
        raise ValueError("a list, or a range like 0.02...0.24 by 0.02")
    try:
        first, last, step = (Decimal(text) for text in match.groups())
        if not step > 0 or last < first:
            raise ValueError("an ascending range: first...last by step, with a step above 0")
        points = (last - first) / step + 1
    except ArithmeticError:
        raise ValueError("a list, or a range like 0.02...0.24 by 0.02") from None
    if points > MAX_POINTS:
        raise ValueError(f"a range of at most {MAX_POINTS:,} points; this one has {points:.3g}")
    number = int if all(text.isdigit() for text in match.groups()) else float
    return [number(first + step * k) for k in range(int(points))]
