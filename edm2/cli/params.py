"""`edm2 params`: check params.yaml, and explain its fields."""

import textwrap
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edm2.cli.project import ProjectContext

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


@click.group()
def params() -> None:
    """Check params.yaml and explain its fields."""


@params.command()
@click.argument("file", required=False, type=click.Path(resolve_path=True, path_type=Path))
@click.pass_obj
def check(project: ProjectContext, file: Path | None) -> None:
    """Check FILE (default: the project's params.yaml): keys, types, ranges and combinations.

    All problems are listed at once. DVC runs the same check before each stage.
    """
    from edm2.params import load

    if file is None or project.root is not None:
        root = project.enter()  # paths in FILE are relative to the project
        file = file or root / "params.yaml"
    load(file)
    click.echo(f"{file}: no problems.")


@params.command()
@click.argument("key", required=False)
@click.pass_obj
def describe(project: ProjectContext, key: str | None) -> None:
    """Print what every field means and its value here; KEY: only this field or section, like `ema`."""
    from edm2.params import UserError, load
    from edm2.params.explanation import meant_keys
    from edm2.params.loading import fields
    from edm2.params.section import Section
    from edm2.params.tree import Params

    tree = load(project.enter() / "params.yaml")
    descriptions = dict(fields(Params))
    if key is not None and key not in descriptions:
        meant = meant_keys(key, list(descriptions))
        guess = f"Did you mean {' or '.join(meant)}? " if meant else ""
        raise UserError(
            f"{key}: not a field or section of params.yaml. {guess}"
            "`edm2 params describe` lists all."
        )
    for path, description in descriptions.items():
        if key is None or path == key or path.startswith(f"{key}."):
            parent, _, name = path.rpartition(".")
            section = attrgetter(parent)(tree) if parent else tree
            value, field = getattr(section, name), type(section).model_fields[name]
            if isinstance(value, Section):
                click.echo(f"\n{path}: {description}")
            else:
                about = textwrap.indent(textwrap.fill(description, 92), "    ")
                text = f"{path} = {value!r}{_range(field)}\n{about}"
                click.echo(textwrap.indent(text, "  "))


def _range(field: "FieldInfo") -> str:
    """The numbers that a field may have, as a comment."""
    from edm2.params.number_types import numbers_in

    ranges = {str(limits) for _, limits in numbers_in(field.annotation, field.metadata)}
    return "".join(f"  # {limits}" for limits in ranges)


@params.command()
@click.argument("name", required=False)
def preset(name: str | None) -> None:
    """Print the complete params of a known experiment: `edm2 params preset NAME > params.yaml`.

    Without NAME, list the presets. A line with EDIT has a path that is yours to set.
    """
    from edm2.params.presets import PRESETS, preset_text

    if name is not None:
        click.echo(preset_text(name), nl=False)
        return
    width = max(map(len, PRESETS))
    for other, preset in PRESETS.items():
        click.echo(f"{other:{width}}  {preset.about}")
