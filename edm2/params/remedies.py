"""Values that were probably meant, for the errors of params: each is tried before it is proposed."""

import difflib
import json
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any

NULLS = ("none", "null", "~", "nil", "never", "")
BOOLEANS = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "no", "n", "off", "0"), False),
}
UNITS = {
    "": 1.0,
    "%": 0.01,
    **dict.fromkeys(("k", "kimg", "thousand"), 1e3),
    **dict.fromkeys(("m", "mimg", "million"), 1e6),
    **dict.fromkeys(("g", "b", "billion"), 1e9),
}
SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
OPERATORS = {
    "*": operator.mul,
    "×": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "**": operator.pow,
}
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
QUANTITY = re.compile(rf"({NUMBER}) ?([a-z%]*)", re.IGNORECASE)
OPERATION = re.compile(rf"({NUMBER}) ?(\*\*|[*×/^]) ?({NUMBER})")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:[,'_ ]\d{3})+")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?%?")
END = r"(\d+(?:\.\d+)?)"
RANGE = re.compile(rf"{END}[^\d,]+?{END}[^\d,]+?{END}")
PLAIN = re.compile(rf"[A-Za-z_/][\w./+-]*|{END}\.\.\.{END} by {END}")
LARGEST = 1e300  # of the numbers that are proposed; larger ones are no floats
MINUS = str.maketrans("−–", "--")
SYNONYMS = (  # of names; a pattern of what is written, and what is meant
    (r"unlabelled", "unlabeled"),
    (r"gpu|nvidia", "cuda"),
    (r"(?:(?:cuda|gpu)[ :_-]?)?(\d+)", r"cuda:\1"),
    (r"(?:float|fp|f)?[ _-]?16|half", "fp16"),
    (r"(?:float|fp|f)?[ _-]?16|half", "float16"),
    (r"(?:brain)?b?(?:float|fp|f)?[ _-]?16", "bf16"),
    (r"(?:float|fp|f)?[ _-]?32|single|full", "fp32"),
    (r"(?:float|fp|f)?[ _-]?32|single|full", "float32"),
    (r"(?:float|fp|f)?[ _-]?64|double", "float64"),
    (r"fid|frechet", "fd"),
    (r"false|no|off|null", "none"),
)


def conversions(value: Any) -> Iterator[Any]:
    """The same value, written as params.yaml needs it: null, boolean, number, list or text."""
    if value is None:
        yield from ([], {})
    if isinstance(value, str) and value.strip().lower() in NULLS:
        yield None
    if str(value).strip().lower() in BOOLEANS:
        yield BOOLEANS[str(value).strip().lower()]
    yield from numbers(value)
    yield from lists(value)
    if isinstance(value, str) and value.strip() != value:
        yield value.strip()
    if isinstance(value, int | float):
        yield as_yaml(value)
    if isinstance(value, date):
        yield str(value)


def durations(value: Any) -> Iterator[Any]:
    """As `conversions`, for keys in seconds: units are those of time."""
    match = QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not match[2]:
        yield from conversions(value)
    elif match[2].lower() in SECONDS:
        yield from numbers(float(match[1]) * SECONDS[match[2].lower()])


def numbers(value: Any) -> Iterator[int | float]:
    """Whole numbers before others: 1e6 and 1,000 and 10k are whole."""
    if isinstance(value, bool):
        return
    number = value if isinstance(value, int | float) else _parse(value)
    if number is not None and abs(number) < LARGEST:
        if number == int(number):
            yield int(number)
        yield float(number)


def lists(value: Any) -> Iterator[Any]:
    """Lists of the parts of a text, ranges, and lists of one value."""
    if isinstance(value, str):
        text = value.strip().strip("[](){}")
        if match := RANGE.fullmatch(text):
            yield "{}...{} by {}".format(*match.groups())
        parts = [part for part in re.split(r"[,;\s]+", text) if part]
        if parts:
            yield [next(numbers(part), part) for part in parts]
        yield from ([number] for number in numbers(value))
        yield [value.strip()]
    elif isinstance(value, list):
        if len(value) == 1:
            yield value[0]
        elif value and all(isinstance(part, str) for part in value):
            yield f"{{{','.join(value)}}}"  # alternatives of a pattern of files
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield [value]


def guesses(value: Any, choices: Sequence[str]) -> Iterator[str]:
    """Names that may be meant by a value that is none of `choices`."""
    text = str(value).strip()
    for pattern, meant in SYNONYMS:
        match = re.fullmatch(pattern, text, re.IGNORECASE)
        if match:
            yield match.expand(meant)
    words = {word.casefold() for word in (text, *re.split(r"\W+", text))}
    yield from (choice for choice in choices if choice.casefold() in words)
    yield from close_names(text, choices)


def close_names(name: str, names: Iterable[str]) -> list[str]:
    """The names that are most like another one, whatever its case; the best first."""
    by_folded = {other.casefold(): other for other in names}
    return [
        by_folded[found]
        for found in difflib.get_close_matches(name.casefold(), by_folded, cutoff=0.7)
    ]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question about the names that are most like another one, and a space; empty if none is."""
    close = close_names(name, names)
    return f"Did you mean {' or '.join(close)}? " if close else ""


def as_yaml(value: Any) -> str:
    """A value as it is written in params.yaml."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, str):
        word = PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false")
        return value if word else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _parse(value: Any) -> float | None:
    """The number that a text means: with a unit, thousands, a decimal comma, or one operation."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    text = value.strip().translate(MINUS)
    if THOUSANDS.fullmatch(text):
        text = re.sub(r"[,'_ ]", "", text)
    elif DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        if text.lower().startswith("0x"):
            return int(text, 16)
        if quantity := QUANTITY.fullmatch(text):
            unit = UNITS.get(quantity[2].lower())
            # rounded, because 0.01 and the like are not exact
            return None if unit is None else float(f"{float(quantity[1]) * unit:.15g}")
        if operation := OPERATION.fullmatch(text):
            first, second = float(operation[1]), float(operation[3])
            result = OPERATORS[operation[2]](first, second)
            return float(f"{result:.15g}") if isinstance(result, float) else None
    except (ArithmeticError, ValueError):
        pass
    return None
