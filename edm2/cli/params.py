"""`edm2 params`: check params.yaml, and explain its fields."""

import textwrap
from pathlib import Path

import click

from edm2.cli.project import ProjectContext
from edm2.params.sizes import SIZES


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
            value = tree
            for part in path.split("."):
                value = getattr(value, part)
            if isinstance(value, Section):
                click.echo(f"\n{path}: {description}")
            else:
                text = f"{path} = {value!r}\n" + textwrap.indent(
                    textwrap.fill(description, 92), "    "
                )
                click.echo(textwrap.indent(text, "  "))


@params.command()
@click.argument("name", required=False)
@click.option(
    "--size",
    type=click.Choice(list(SIZES), case_sensitive=False),
    help="A size of the paper; default: S.",
)
@click.option("--write", is_flag=True, help="Change the project's params.yaml; default: print it.")
@click.pass_obj
def preset(project: ProjectContext, name: str | None, size: str | None, write: bool) -> None:
    """Set the fields of a known experiment in the project's params.yaml.

    Without NAME, list the presets. Set dataset.path afterwards.
    """
    from edm2.params.errors import UserError
    from edm2.params.presets import apply_preset, preset_names
    from edm2.params.yaml_file import read_text
    from edm2.runtime.files import write_text

    if name is None:
        click.echo("\n".join(preset_names()))
        return
    if name not in preset_names():
        raise UserError(f"preset {name!r}: expected one of {', '.join(preset_names())}.")
    file = project.enter() / "params.yaml"
    text = apply_preset(read_text(file), name, size)
    if write:
        write_text(file, text)
        click.echo(f"{file}: set to {name}. Next: set dataset.path, then edm2 params check.")
    else:
        click.echo(text, nl=False)
