"""Reading params.yaml."""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edm2.params.checks import launched_ranks, project_root, wrong_combinations
from edm2.params.diffusion import Diffusion
from edm2.params.errors import ParamsError, Problem, UserError
from edm2.params.explanation import Explainer
from edm2.params.registry import load_plugins
from edm2.params.tree import Params
from edm2.params.yaml_file import read_yaml


def load(path: str | Path, unchecked: Collection[str] = ()) -> Params:
    """Read and check params.yaml (YAML 1.2, as DVC reads it).

    Args:
        unchecked: fields whose combinations with others, and whose files, may be wrong.

    Raises:
        ParamsError: a key is unknown or missing, a value has the wrong type or is impossible, alone
            or together with others. All problems are in it.
        UserError: the file cannot be read.
    """
    path = Path(path)
    tree = read_yaml(path)
    problems = list(
        load_plugins(tree.get("plugins") if isinstance(tree, dict) else None, project_root())
    )
    if problems:
        raise ParamsError(path, problems)
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise ParamsError(path, _explain_all(error, Params, tree)) from None
    problems = list(_wrong_changes(params))
    if not problems:
        found = wrong_combinations(params, _ranks(params), project_root())
        problems = [problem for problem in found if problem.key not in unchecked]
    if problems:
        raise ParamsError(path, problems)
    return params


def _ranks(params: Params) -> int:
    """Number of processes of this launch, or else of the one that `launch` describes."""
    size = os.environ.get("WORLD_SIZE")
    if size is None:
        return launched_ranks(params.launch)
    if not re.fullmatch("[1-9][0-9]*", size):
        raise UserError(
            f"WORLD_SIZE (environment): {size!r}: expected the number of processes. Unset it: torchrun "
            "sets it where it is needed."
        )
    return int(size)


def _wrong_changes(params: Params) -> Iterator[Problem]:
    """Problems of the changes of `diffusion`: of single configs, and of the guide."""
    changes_by_key = {
        f"diffusion.per_config.{config}": changes
        for config, changes in params.diffusion.per_config.items()
    }
    changes_by_key["guidance.changes"] = params.guidance.changes
    for key, changes in changes_by_key.items():
        tree = params.diffusion.merged(changes)
        try:
            Diffusion.model_validate(tree)
        except ValidationError as error:
            for problem in _explain_all(error, Diffusion, tree, "diffusion"):
                yield replace(problem, key=f"{key}.{problem.key.removeprefix('diffusion.')}")


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key path below `model` with its description, sections before their fields."""
    for name, field in model.model_fields.items():
        yield prefix + name, field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")


def _explain_all(
    error: ValidationError, model: type[BaseModel], tree: Any, section: str = ""
) -> list[Problem]:
    """The problems that pydantic found in the tree, or in one of its sections."""
    return Explainer(model, tree, section, dict(fields(Params))).problems(error)
