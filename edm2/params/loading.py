"""Reading params.yaml."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edm2.params.checks import project_root, wrong_combinations
from edm2.params.diffusion import Diffusion
from edm2.params.errors import ParamsError, Problem, UserError
from edm2.params.explanation import Explainer
from edm2.params.launch import STAGES, launched_ranks, launcher_of
from edm2.params.launch_checks import launch_problems
from edm2.params.registry import load_plugins
from edm2.params.section import Section, section_of
from edm2.params.tree import Params
from edm2.params.yaml_file import read_yaml

S = TypeVar("S", bound=Section)


def load(path: str | Path, unchecked: Collection[str] = ()) -> Params:
    """Read and check params.yaml (YAML 1.2, as DVC reads it).

    Args:
        unchecked: fields whose combinations with others, and whose files, may be wrong.

    Raises:
        ParamsError, UserError: see `check_tree`; or the file cannot be read.
    """
    return check_tree(read_yaml(Path(path)), path, unchecked=unchecked)


def check_tree(
    tree: Any, path: str | Path, stage: str | None = None, unchecked: Collection[str] = ()
) -> Params:
    """The params of the tree that was read from the file `path`.

    Args:
        stage: the stage of this launch; its number of processes is known. None: any.
        unchecked: see `load`.

    Raises:
        ParamsError: a key is unknown or missing, a value has the wrong type or is impossible, alone
            or together with others. All problems are in it.
        UserError: a plug-in or the environment is wrong.
    """
    problems = list(
        load_plugins(tree.get("plugins") if isinstance(tree, dict) else None, project_root())
    )
    if problems:
        raise ParamsError(path, problems)
    params = validated(tree, path)
    problems = [*launch_problems(params.launch), *_wrong_changes(params)]
    if not problems:
        combinations = wrong_combinations(params, _ranks(params, stage), project_root())
        problems = [problem for problem in combinations if problem.key not in unchecked]
    if problems:
        raise ParamsError(path, problems)
    return params


def validated(tree: Any, path: str | Path) -> Params:
    """The params of a tree, whose combinations are not checked.

    Raises:
        ParamsError: a key is unknown or missing, or a value has the wrong type or is impossible.
    """
    try:
        return Params.complete(tree)
    except ValidationError as error:
        raise ParamsError(path, _explain_all(error, Params, tree)) from None


def _ranks(params: Params, stage: str | None) -> dict[str, int]:
    """Number of processes of each stage: that of this launch, or else of the launcher."""
    size = os.environ.get("WORLD_SIZE")
    if size is not None and not re.fullmatch("[1-9][0-9]*", size):
        raise UserError(
            f"WORLD_SIZE (environment): {size!r}: expected the number of processes. Unset it: torchrun "
            "sets it where it is needed."
        )
    ranks: dict[str, int] = {
        name: launched_ranks(launcher_of(params.launch, name)) for name in STAGES
    }
    if size is not None:
        ranks |= dict.fromkeys(STAGES if stage is None else [stage], int(size))
    elif stage is not None:
        ranks[stage] = 1
    return ranks


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


def changed(section: S, name: str, changes: Mapping[str, Any], options: Mapping[str, str]) -> S:
    """A section of params with the values that options of a command line set.

    Args:
        name: of the section in params.yaml.
        options: the option that sets each field of `changes`, for errors.

    Raises:
        UserError: a value is impossible; the message names the option.
    """
    tree = {**section.model_dump(), **changes}
    try:
        return type(section).model_validate(tree)
    except ValidationError as error:
        problems = _explain_all(error, type(section), tree, name)
    lines = [replace(p, key=options[p.key.rpartition(".")[2]]) for p in problems]
    raise UserError("\n".join(map(str, lines)))


def fields(
    model: type[BaseModel], prefix: str = "", optional: bool = False
) -> Iterator[tuple[str, str]]:
    """Every key path below `model` with its description, sections before their fields.

    Args:
        optional: with those below sections that may be null.
    """
    for name, field in model.model_fields.items():
        yield prefix + name, field.description or ""
        section = section_of(field.annotation)
        if section is not None and (optional or section is field.annotation):
            yield from fields(section, f"{prefix}{name}.", optional)


def _explain_all(
    error: ValidationError, model: type[BaseModel], tree: Any, section: str = ""
) -> list[Problem]:
    """The problems that pydantic found in the tree, or in one of its sections."""
    return Explainer(model, tree, section, dict(fields(Params, optional=True))).problems(error)
