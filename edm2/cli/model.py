"""`edm2 model`: describe the networks of the training configs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from edm2.cli.option_types import WholeNumbers
from edm2.cli.project import ProjectContext
from edm2.params.configs import CONFIGS
from edm2.params.errors import ParamsError, UserError
from edm2.params.registry import load_plugins
from edm2.params.sizes import SIZES
from edm2.params.yaml_file import read_yaml

POSITIVE = click.IntRange(min=1)


@click.group()
def model() -> None:
    """Describe the networks of the training configs."""


@model.command()
@click.argument("config")
@click.argument("size", required=False, type=click.Choice(list(SIZES), case_sensitive=False))
@click.option("--channels", type=POSITIVE, help="Width of the first level, instead of SIZE.")
@click.option(
    "--resolution", type=POSITIVE, default=64, show_default=True, help="Of latents or pixels."
)
@click.option(
    "--in-channels", type=POSITIVE, default=4, show_default=True, help="4: latents; 3: pixels."
)
@click.option(
    "--classes",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="0: unconditional.",
)
@click.option(
    "--channel-mult",
    type=WholeNumbers(1),
    default="1,2,3,4",
    show_default=True,
    help="Width of each level as a multiple of the first.",
)
@click.option(
    "--res-blocks", type=POSITIVE, default=3, show_default=True, help="Residual blocks per level."
)
@click.option("--attention", type=WholeNumbers(), help="Resolutions; default: those of CONFIG.")
@click.pass_obj
def summary(
    project: ProjectContext, /, config: str, size: str | None, channels: int | None, **shape: Any
) -> None:
    """Print the options of CONFIG and the layers of its network at SIZE (default: S).

    CONFIG is one of the paper's, A to G, or of the plug-ins of the project.
    """
    _load_plugins(project)
    if config not in CONFIGS:
        raise UserError(f"config {config}: expected one of {', '.join(CONFIGS)}.")
    if size and channels:
        raise click.UsageError("SIZE and --channels: expected only one of them.")
    options, layers = _describe(config, size, channels, shape)
    click.echo(f"Config {config} with the paper's values for this size:\n")
    for option, value in options.items():
        click.echo(f"{option} = {value}")
    click.echo("\n" + _aligned([("layer", "output", "parameters", "multiply-adds"), *layers]))


def _describe(
    config: str, size: str | None, channels: int | None, shape: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str, str, str]]]:
    """The options of a network, and a row of text per layer with a last one for all.

    Raises:
        UserError: no network has this shape.
    """
    import torch

    from edm2.diffusion.denoiser import build_denoiser
    from edm2.diffusion.summary import layer_table

    try:
        with torch.device("meta"):
            denoiser = build_denoiser(
                config,
                size,  # type: ignore[arg-type]
                channels,
                resolution=shape["resolution"],
                in_channels=shape["in_channels"],
                num_classes=shape["classes"],
                channel_mult=shape["channel_mult"],
                res_blocks=shape["res_blocks"],
                attention_resolutions=shape["attention"],
            )
        rows, total = layer_table(denoiser)
    except RuntimeError as error:  # from torch, about shapes of tensors
        raise UserError(
            f"no network can have this shape ({error}). Choose a --resolution divisible "
            "by 2 once for each level after the first, and --channels divisible by 64."
        ) from None
    return asdict(denoiser.config), [
        (
            row.name,
            "x".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
        )
        for row in (*rows, total)
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A text table with right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _load_plugins(project: ProjectContext) -> None:
    """Import the plug-ins of the project, if there is one: their configs are known then."""
    if project.root is not None:
        tree = read_yaml(project.root / "params.yaml")
        names = tree.get("plugins") if isinstance(tree, dict) else None
        problems = list(load_plugins(names, project.root))
        if problems:
            raise ParamsError(project.root / "params.yaml", problems)
