"""Grids of numbers, written as a list or as a range."""

import re
from decimal import Decimal
from typing import Any

RANGE = re.compile(r"\s*([0-9.eE+-]+?)\s*(?:…|\.\.\.)\s*([0-9.eE+-]+)\s+by\s+([0-9.eE+-]+)\s*")


def parse_grid(value: Any) -> Any:
    """A list as it is; "0.02...0.24 by 0.02" as all its points, both ends included.

    Decimal arithmetic, so that 0.02 … 0.24 by 0.02 ends at 0.24 exactly; whole numbers stay whole.
    Anything else is handed
    on, for the type check behind this to refuse.
    """
    if not isinstance(value, str):
        return value
    match = RANGE.fullmatch(value)
    if match is None:
        raise ValueError("a range is written like 0.02...0.24 by 0.02")
    try:
        first, last, step = (Decimal(text) for text in match.groups())
    except ArithmeticError:
        raise ValueError("a range is written like 0.02...0.24 by 0.02") from None
    if step <= 0 or last < first:
        raise ValueError("a range goes upwards: first...last by step, with a step above 0")
    points = int((last - first) / step) + 1
    number = int if all(text.isdigit() for text in match.groups()) else float
    return [number(first + step * k) for k in range(points)]
