"""How large the content of a YAML file may be. Aliases multiply: a kilobyte can stand for terabytes."""

from typing import Any

from edm2.params.errors import UserError

MAX_BYTES = 2**20  # of a file
MAX_VALUES = 20_000  # counted as often as aliases repeat them; the longest lists have 10,000
MAX_DEPTH = 30
MAX_TEXT = 10_000  # characters
MAX_BITS = 128  # of a whole number


def require_bounded(tree: Any, name: str) -> Any:
    """The same tree, if it is no larger than any that is meant.

    Args:
        name: of the file, for errors.

    Raises:
        UserError: it has too many values, too deep ones, or one that is too long.
    """
    left, rest = MAX_VALUES, [("", 0, tree)]
    while rest:
        key, depth, value = rest.pop()
        place = f"{name}: {key[:100]}" if key else name
        left -= 1
        if left < 0:
            raise UserError(
                f"{name}: more than {MAX_VALUES:,} values, counted as often as aliases (*) repeat them. "
                "Remove those that no key needs."
            )
        if depth > MAX_DEPTH:
            raise UserError(
                f"{place}: nested more than {MAX_DEPTH} deep. Remove brackets, or an alias (*) of itself."
            )
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise UserError(
                f"{place}: a text of {len(value):,} characters, expected at most {MAX_TEXT:,}. Shorten it."
            )
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise UserError(
                f"{place}: a whole number of {value.bit_length():,} bits, expected at most {MAX_BITS}. "
                "Write a smaller one."
            )
        rest += [
            (f"{key}.{part}".lstrip("."), depth + 1, child) for part, child in _children(value)
        ]
    return tree


def _children(value: Any) -> list[tuple[Any, Any]]:
    """What a list or mapping has, in reverse order; keys of mappings are values, too."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = [("", key) for key in value]
        items += [(str(key)[:50], child) for key, child in value.items()]
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    return items[: MAX_VALUES + 1][::-1]
