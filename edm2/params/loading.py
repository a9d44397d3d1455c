"""Reading params.yaml."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from edm2.params.checks import launched_ranks, project_root, wrong_combinations
from edm2.params.errors import ParamsError, Problem, UserError
from edm2.params.registry import load_plugins
from edm2.params.tree import Params


def load(path: str | Path) -> Params:
    """Read and check params.yaml (YAML 1.2, as DVC reads it).

    Raises:
        ParamsError: a key is unknown or missing, a value has the wrong type or is impossible, alone
            or together with others. All problems are in it.
        UserError: the file cannot be read.
    """
    path = Path(path)
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    problems = list(
        load_plugins(tree.get("plugins") if isinstance(tree, dict) else None, project_root())
    )
    if problems:
        raise ParamsError(path, problems)
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise ParamsError(path, _explain_all(error)) from None
    problems = list(_wrong_changes(params))
    if not problems:
        ranks = int(os.environ.get("WORLD_SIZE", launched_ranks(params.launch)))
        problems = list(wrong_combinations(params, ranks, project_root()))
    if problems:
        raise ParamsError(path, problems)
    return params


def _wrong_changes(params: Params) -> Iterator[Problem]:
    """Problems of the changes of `diffusion`: of single configs, and of the guide."""
    changes_by_key = {
        f"diffusion.per_config.{config}": changes
        for config, changes in params.diffusion.per_config.items()
    }
    changes_by_key["guidance.changes"] = params.guidance.changes
    for key, changes in changes_by_key.items():
        try:
            params.diffusion.changed(changes)
        except ValidationError as error:
            for problem in _explain_all(error, "diffusion"):
                yield replace(problem, key=f"{key}.{problem.key.removeprefix('diffusion.')}")


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key path below `model` with its description, sections before their fields."""
    for name, field in model.model_fields.items():
        yield prefix + name, field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")


def _explain_all(error: ValidationError, section: str | None = None) -> list[Problem]:
    """All problems that pydantic found in the tree, or in one of its sections.

    Errors that follow from an error inside are left out: a list is too short because an item is bad.
    """
    errors = error.errors()
    locations = [details["loc"] for details in errors]
    return [
        _explain(details, (section, *details["loc"]) if section else details["loc"])
        for details in errors
        if not any(
            len(other) > len(details["loc"]) and other[: len(details["loc"])] == details["loc"]
            for other in locations
        )
    ]


FIXES = (  # by the beginning of pydantic's error type
    (("literal",), "Choose one of these."),
    (("int_", "float_", "bool_", "string_type", "tuple", "list"), "Write it without quotes."),
    (("greater", "less"), "Choose a value in this range."),
)


def _explain(error: ErrorDetails, location: tuple[int | str, ...]) -> Problem:
    """A problem that pydantic found, as a `Problem`."""
    key = ".".join(map(str, location)) or "the file"
    descriptions = dict(fields(Params))
    description = descriptions.get(
        ".".join(str(part) for part in location if not isinstance(part, int))
    )
    about = f" ({description})" if description else ""
    if error["type"] == "extra_forbidden":
        known, guess = _known(key, list(descriptions))
        return Problem(key, error["input"], f"a known key: {known}", f"{guess}Remove it.")
    if error["type"] == "missing":
        return Problem(key, None, f"a value{about}", "Add the key; params.yaml lists every field.")
    allowed = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    fix = next((text for kinds, text in FIXES if error["type"].startswith(kinds)), "")
    if error["type"].endswith("_type") and not isinstance(error["input"], str):
        fix = "Set a value of this type."
    if "ema_length" in key and error["type"].startswith(("less", "greater")):
        fix = "EMA lengths are between 0 and 1/√12; 0.05 to 0.25 are usual."
    return Problem(key, error["input"], f"{allowed}{about}", fix)


def _known(key: str, keys: list[str]) -> tuple[str, str]:
    """The known keys of the section of an unknown one, and a guess which was meant."""
    section, _, name = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == section]
    close = difflib.get_close_matches(name, siblings, n=1)
    return ", ".join(siblings), f"Did you mean {close[0]}? " if close else ""
