"""Values of options that click has no type for: paths, and lists of names and numbers."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

NUMBER = r"\d{1,18}"  # fits into 64 bits


def absolute(path: str) -> Path:
    """Made absolute; links are kept: the manifest that lists a file is beside its link."""
    return Path(os.path.abspath(path))


class AbsolutePath(click.ParamType):  # type: ignore[type-arg]
    """A path, made absolute."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        return absolute(value)


FILE = AbsolutePath()


class WholeNumbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers separated by commas, like 3,7, each at least `minimum`."""

    name = "numbers"

    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum

    def convert(self, value: Any, param: Any, ctx: Any) -> Sequence[int]:
        if not isinstance(value, str):
            return list(value)
        if not re.fullmatch(rf"{NUMBER}(,{NUMBER})*", value):
            self.fail(f"{value!r}: expected numbers, like 3,7", param, ctx)
        numbers = [int(part) for part in value.split(",")]
        if min(numbers) < self.minimum:
            self.fail(f"{value!r}: expected numbers of at least {self.minimum}", param, ctx)
        return numbers


class Seeds(WholeNumbers):
    """Seeds: first to last, like 0-63, or a list, like 3,7."""

    name = "seeds"

    def convert(self, value: Any, param: Any, ctx: Any) -> Sequence[int]:
        bounds = re.fullmatch(rf"({NUMBER})-({NUMBER})", value)
        if bounds and int(bounds[1]) <= int(bounds[2]):
            return range(int(bounds[1]), int(bounds[2]) + 1)
        if bounds:
            self.fail(f"{value!r}: expected the first seed before the last, like 0-63", param, ctx)
        seeds = super().convert(value, param, ctx)
        if len(set(seeds)) < len(seeds):
            self.fail(f"{value!r}: expected each seed once", param, ctx)
        return seeds


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """A list of numbers like 0.05,0.28."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[float]:
        try:
            return [float(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: expected numbers like 0.05,0.28", param, ctx)


class EmaLengths(click.ParamType):  # type: ignore[type-arg]
    """EMA lengths: a list like 0.05,0.10 or a range like 0.05...0.25 by 0.01."""

    name = "lengths"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[float]:
        from edm2.ema.profile import sigma_rel_to_gamma
        from edm2.params.grid import parse_grid

        try:
            values = parse_grid(value) if "by" in value else value.split(",")
            lengths = [float(length) for length in values]
        except ValueError:
            self.fail(
                f"{value!r}: expected EMA lengths like 0.05,0.10 or a range like "
                "'0.05...0.25 by 0.01'",
                param,
                ctx,
            )
        for length in lengths:
            try:
                sigma_rel_to_gamma(length)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return lengths


class Strength(click.ParamType):  # type: ignore[type-arg]
    """Guidance strength: a finite number of at least 0."""

    name = "strength"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            strength = float(value)
        except ValueError:
            strength = math.nan
        if not 0 <= strength < math.inf:
            self.fail(f"{value!r}: expected a number of at least 0; 1: no guidance", param, ctx)
        return strength


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        if not all(names) or len(set(names)) < len(names):
            self.fail(f"{value!r}: expected names separated by commas, each once", param, ctx)
        return names
