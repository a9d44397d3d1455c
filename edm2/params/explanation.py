"""What pydantic found wrong, as problems with the way out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edm2.params.errors import MAX_PROBLEMS, Problem
from edm2.params.remedies import as_yaml, close_names, conversions, durations, guesses
from edm2.params.renamed import RENAMED
from edm2.params.section import omitted_keys

Location = tuple[int | str, ...]
KEY = "[key]"  # how pydantic marks that a key is wrong, and not its value

# by the beginning of pydantic's error type: what is expected, and what to do if nothing better is
# known; "": as pydantic says
EXPECTED: dict[tuple[str, ...], tuple[str, str]] = {
    ("bool_",): ("true or false", "Write true or false."),
    ("int_",): ("a whole number", "Write a whole number, like 1000."),
    ("float_", "finite_"): ("a finite number", "Write a number, like 0.01."),
    ("string_type",): ("text", "Write text."),
    ("string_too_short",): ("text that is not empty", "Write a text."),
    ("string_too_long",): ("at most {max_length} characters", "Shorten it."),
    ("string_",): ("text of valid characters", "Write it in UTF-8."),
    ("tuple_", "list_"): ("a list", "Write a list in brackets, like [a, b]."),
    ("too_short",): ("{min_length} or more values", "Add values."),
    ("too_long",): ("at most {max_length} values", "Remove the values after those."),
    ("path",): ("", "Write another path."),
    ("dict_", "model_"): ("keys with values", "Write its keys below it, indented."),
    ("invalid_key",): ("keys that are text", "Write the key in quotes, or remove it."),
    ("literal_member",): ("", "Choose one of these; a plug-in can add others."),
    ("literal",): ("", "Choose one of these."),
    ("launch",): ("", "Write python, or e.g. torchrun --nproc_per_node=8."),
    ("range",): ("", "Choose a value in this range."),
}


@dataclass(frozen=True)
class Explainer:
    """Explains the errors of one tree.

    Attributes:
        model: what the tree was validated as.
        tree: as it was read.
        section: key path of the tree in params.yaml; empty for the whole file.
        descriptions: every key path of params.yaml with its description.
    """

    model: type[BaseModel]
    tree: Any
    section: str
    descriptions: Mapping[str, str]

    def problems(self, error: ValidationError) -> list[Problem]:
        """All problems, without those that follow from others; the first ones with the way out.

        A list is too short because an item is bad; a key is missing because its name is misspelled.
        """
        errors = error.errors()
        listed = {details["loc"] for details in errors}
        errors += [
            {"type": "missing", "loc": location, "msg": "", "input": None}
            for location in omitted_keys(self.model, self.tree)
            if location not in listed
        ]
        outer = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
        unknown = [details for details in errors if details["type"] == "extra_forbidden"]
        meant = {
            name
            for details in unknown[:MAX_PROBLEMS]
            for name in self._meant(self._key(details["loc"]))[:1]
        }
        errors = [
            details
            for details in errors
            if details["loc"] not in outer
            and not (details["type"] == "missing" and self._key(details["loc"]) in meant)
        ]
        explained = (self._explain(e, error.error_count()) for e in errors[:MAX_PROBLEMS])
        others = (
            Problem(self._key(e["loc"]), e["input"], e["msg"], "") for e in errors[MAX_PROBLEMS:]
        )
        return [*explained, *others]

    def _explain(self, error: ErrorDetails, errors: int) -> Problem:
        location, value, kind = error["loc"], error["input"], error["type"]
        key = self._key(location)
        description = self.descriptions.get(".".join(p for p in key.split(".") if not p.isdigit()))
        about = f" ({description})" if description else ""
        if kind == "extra_forbidden":
            return self._unknown(key, value)
        if kind == "missing" and isinstance(location[-1], int):
            allowed = f"another value, at position {location[-1] + 1}"
            return Problem(self._key(location[:-1]), value, allowed + about, "Add it to the list.")
        if kind == "missing":
            return Problem(key, None, f"a value{about}", "Add the key; params.yaml lists all keys.")
        if not location:
            return Problem("the file", value, "sections with keys", "Restore it, e.g. from git.")
        allowed, fix = next(
            (texts for kinds, texts in EXPECTED.items() if kind.startswith(kinds)), ("", "")
        )
        said = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        allowed = allowed.format_map(error.get("ctx", {})) or said
        if "ema_length" in key and kind == "range":
            fix = "EMA lengths are between 0 and 1/√12; 0.05 to 0.25 are usual."
        if kind.startswith(("dict_", "model_")) and self._keys_of(key):
            allowed += f": {self._names_of(key)}"
        choices = said.split("'")[1::2]
        fix = self._remedy(location, value, choices, errors) or fix
        return Problem(key, value, allowed + about, fix)

    def _remedy(self, location: Location, value: Any, choices: list[str], errors: int) -> str:
        """What to write instead of `value`: only a value with which the tree has fewer errors."""

        def fits(candidate: Any) -> bool:
            try:
                self.model.model_validate(_replaced(self.tree, location, candidate))
            except ValidationError as error:
                return error.error_count() < errors
            except (LookupError, TypeError, ValueError):  # a place in a range, or below a text
                return False
            return True

        name = next(filter(fits, guesses(value, choices)), None) if choices else None
        if name is not None:
            return f"Did you mean {as_yaml(name)}?"
        meanings = durations if str(location[-1]).endswith("_seconds") else conversions
        for candidate in filter(fits, meanings(value)):
            quotes = ", without quotes" * (value == as_yaml(candidate))
            return f"Write {as_yaml(candidate)}{quotes}."
        return ""

    def _unknown(self, key: str, value: Any) -> Problem:
        section, meant = key.rpartition(".")[0], self._meant(key)
        if key in RENAMED:
            fix = f"It is called {RENAMED[key]} now: rename it."
        elif not meant:
            fix = "Remove it."
        elif key not in meant and meant[0].rpartition(".")[0] == section:
            fix = f"Did you mean {meant[0].rpartition('.')[2]}? Rename it, or remove it."
        else:
            fix = f"Did you mean {' or '.join(meant)}? Move it there, or remove it."
        return Problem(key, value, f"a known key: {self._names_of(section)}", fix)

    def _meant(self, key: str) -> list[str]:
        prefix = f"{self.section}." if self.section else ""
        return meant_keys(key, [k for k in self.descriptions if k.startswith(prefix)])

    def _keys_of(self, section: str) -> list[str]:
        return [key for key in self.descriptions if key.rpartition(".")[0] == section]

    def _names_of(self, section: str) -> str:
        return ", ".join(key.rpartition(".")[2] for key in self._keys_of(section))

    def _key(self, location: Location) -> str:
        """The key path of an error, in params.yaml."""
        parts = (part for part in location if part != KEY)
        return ".".join(map(str, (self.section, *parts) if self.section else parts))


def meant_keys(key: str, keys: Sequence[str]) -> list[str]:
    """The key paths that may be meant by an unknown one: renamed, misspelled, or of other sections."""
    section, _, name = key.rpartition(".")
    if key in RENAMED:
        return [RENAMED[key]]
    if key in keys:  # written in one line, with dots
        return [key]
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == section}
    close = close_names(name, siblings)[:1]
    if close:
        return [siblings[close[0]]]
    names = {k.rpartition(".")[2] for k in keys}
    close = [name] if name in names else close_names(name, names)[:1]
    return [k for k in keys if k.rpartition(".")[2] in close]


def _replaced(tree: Any, location: Location, value: Any) -> Any:
    """A copy of `tree` with another value at `location`, or with another key."""
    part, rest = location[0], location[1:]
    if rest == (KEY,):
        return {value if key == part else key: child for key, child in tree.items()}
    copy = list(tree) if isinstance(part, int) and not isinstance(tree, dict) else dict(tree)
    copy[part] = _replaced(copy[part], rest, value) if rest else value  # type: ignore[index]
    return copy
