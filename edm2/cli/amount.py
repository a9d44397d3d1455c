"""Numbers on the command line."""

import math
from typing import Any

import click


class Amount(click.ParamType):  # type: ignore[type-arg]
    """A number from `least` to `most`, both included; neither NaN nor infinite."""

    name = "number"

    def __init__(self, least: float, most: float, example: str) -> None:
        """
        Args:
            example: what is usual, with its unit.
        """
        self.least, self.most, self.example = least, most, example

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self.least <= number <= self.most:
            limits = f"{self.least:g} to {self.most:g}"
            self.fail(
                f"{value!r}: expected a number from {limits}, like {self.example}", param, ctx
            )
        return number
