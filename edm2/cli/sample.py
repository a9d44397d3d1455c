"""`edm2 sample`: images of any network."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edm2.cli.project import ProjectContext

NUMBER = r"\d{1,18}"  # fits into 64 bits


class AbsolutePath(click.ParamType):  # type: ignore[type-arg]
    """A path, made absolute. Links are kept: the manifest that lists a file is beside its link."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        return Path(os.path.abspath(value))


FILE = AbsolutePath()


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas, like 3,7, each at least `minimum`."""

    name = "numbers"

    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum

    def convert(self, value: Any, param: Any, ctx: Any) -> Sequence[int]:
        if not isinstance(value, str):
            return list(value)
        if not re.fullmatch(rf"{NUMBER}(,{NUMBER})*", value):
            self.fail(f"{value!r}: expected numbers, like 3,7", param, ctx)
        numbers = [int(part) for part in value.split(",")]
        if min(numbers) < self.minimum:
            self.fail(f"{value!r}: expected numbers of at least {self.minimum}", param, ctx)
        return numbers


class Seeds(Numbers):
    """Seeds: first to last, like 0-63, or a list, like 3,7."""

    name = "seeds"

    def convert(self, value: Any, param: Any, ctx: Any) -> Sequence[int]:
        bounds = re.fullmatch(rf"({NUMBER})-({NUMBER})", value)
        if bounds and int(bounds[1]) <= int(bounds[2]):
            return range(int(bounds[1]), int(bounds[2]) + 1)
        seeds = super().convert(value, param, ctx)
        if len(set(seeds)) < len(seeds):
            self.fail(f"{value!r}: expected each seed once", param, ctx)
        return seeds


class Strength(click.ParamType):  # type: ignore[type-arg]
    """Guidance strength: a finite number of at least 0."""

    name = "strength"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            strength = float(value)
        except ValueError:
            strength = math.nan
        if not 0 <= strength < math.inf:
            self.fail(f"{value!r}: expected a number of at least 0; 1: no guidance", param, ctx)
        return strength


@click.command()
@click.argument("network", type=FILE)
@click.option("--config", default="G", show_default=True, help="Training config of NETWORK.")
@click.option(
    "--seeds",
    type=Seeds(),
    default="0-63",
    show_default=True,
    help="Or a list: 3,7.",
)
@click.option(
    "--labels",
    type=Numbers(),
    help="Class numbers that the seeds take in turn, like 3 or 0,1,2; default: see sampling.labels.",
)
@click.option(
    "--guide",
    type=FILE,
    help="Network of the shape that guidance.changes describes; default: NETWORK without labels.",
)
@click.option(
    "--strength",
    type=Strength(),
    default=1.0,
    show_default=True,
    help="Guidance strength; 1: no guidance.",
)
@click.option("--out", type=FILE, default="samples", help="Folder; default: samples.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "shards"]),
    default="png",
    show_default=True,
    help="One file per image, or WebDataset shards.",
)
@click.pass_obj
def sample(project: ProjectContext, /, network: Path, **options: Any) -> None:
    """Make images of NETWORK: a file of models/sweep/TRAINING/, or of `edm2 ema reconstruct`.

    The network's shape and the sampler are those of params.yaml; codec and latents are the project's
    models/vae and data/latents. Existing images are kept, so that an interrupted run continues. With
    PNG files, a grid by class is also written. On several GPUs:
    torchrun --nproc_per_node=8 --no-python edm2 sample ...
    """
    from edm2.params import UserError, load

    root = project.enter()
    params = load(root / "params.yaml")
    from edm2.pipeline.samples import SampleRequest, write_samples

    config, kind = options["config"], options.pop("kind")
    folder = network.parent
    theirs = folder.name.rpartition("-")[0]
    if config != theirs and folder.parent == root / "models/sweep":
        raise UserError(
            f"--config {config}: {network} is a network of config {theirs}. Use --config {theirs}."
        )
    params.require_config(config, f"--config {config}", "params.yaml")
    write_samples(SampleRequest(network, format=kind, **options), params.of(config))
