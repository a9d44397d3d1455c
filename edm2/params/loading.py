"""Reading params.yaml."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from edm2.params.checks import launched_ranks, problems, project_root
from edm2.params.errors import UserError
from edm2.params.tree import Params


def load(path: str | Path) -> Params:
    """Read and check params.yaml (YAML 1.2, as DVC reads it).

    Raises:
        UserError: the file cannot be read, a key is unknown or missing, a value has the wrong type
            or is impossible, alone or together with others. The message has a line per problem:
            key path, value, what is allowed, what to do.
    """
    path = Path(path)
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise _refusal(path, [_explain(details) for details in _deepest(error.errors())]) from None
    refused = list(_refused_changes(params))
    if refused:
        raise _refusal(path, refused)
    ranks = int(os.environ.get("WORLD_SIZE", launched_ranks(params.launch)))
    found = list(problems(params, ranks, project_root()))
    if found:
        raise _refusal(path, [str(problem) for problem in found])
    return params


def _refused_changes(params: Params) -> Iterator[str]:
    """What is wrong with changes of `diffusion`: of single configs, and of the guide."""
    places = {
        f"diffusion.per_config.{config}": changes
        for config, changes in params.diffusion.per_config.items()
    }
    for key, changes in {**places, "guidance.changes": params.guidance.changes}.items():
        try:
            params.diffusion.changed(changes)
        except ValidationError as error:
            for details in _deepest(error.errors()):
                place = ("diffusion", *details["loc"])
                told = _explain({**details, "loc": place}).removeprefix("diffusion.")
                yield f"{key}.{told}"


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key path below `model` with its description, sections before their fields."""
    for name, field in model.model_fields.items():
        yield prefix + name, field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")


def _refusal(path: Path, lines: list[str]) -> UserError:
    return UserError("\n".join([f"{path} cannot be used:", *(f"  {line}" for line in lines)]))


def _deepest(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out what only follows from an error inside: a list is short because an item is bad."""
    places = [error["loc"] for error in errors]
    return [
        error
        for error in errors
        if not any(
            len(p) > len(error["loc"]) and p[: len(error["loc"])] == error["loc"] for p in places
        )
    ]


REMEDIES = (  # by the beginning of pydantic's error type
    (("literal",), "Choose one of these."),
    (("int_", "float_", "bool_", "string_type", "tuple", "list"), "Write it without quotes."),
    (("greater", "less"), "Choose a value inside."),
)


def _explain(error: ErrorDetails) -> str:
    """One line on one problem that pydantic found: key path, value, what is allowed, what to do."""
    key = ".".join(str(part) for part in error["loc"])
    described = dict(fields(Params))
    meaning = described.get(".".join(str(p) for p in error["loc"] if not isinstance(p, int)))
    about = f" ({meaning})" if meaning else ""
    if error["type"] == "extra_forbidden":
        return f"{key}: {error['input']!r}: unknown key. {_known(key, list(described))}"
    if error["type"] == "missing":
        return f"{key}: missing{about}. Add it; params.yaml lists every field."
    expected = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    remedy = next((text for kinds, text in REMEDIES if error["type"].startswith(kinds)), "")
    if error["type"].endswith("_type") and not isinstance(error["input"], str):
        remedy = "Give a value of that kind."
    if "sigma_rel" in key and error["type"].startswith(("less", "greater")):
        remedy = "EMA lengths lie between 0 and 1/√12; 0.05 to 0.25 are usual."
    return f"{key or 'the file'}: {error['input']!r}: expected {expected}{about}. {remedy}".rstrip()


def _known(key: str, keys: list[str]) -> str:
    section, _, name = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == section]
    close = difflib.get_close_matches(name, siblings, n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    return f"{guess}Known here: {', '.join(siblings)}."
