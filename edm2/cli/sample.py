"""`edm2 sample`: images of any network."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm2.cli.option_types import FILE, Seeds, Strength, WholeNumbers, absolute
from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError

if TYPE_CHECKING:
    from edm2.pipeline.sample_options import SampleOptions
    from edm2.pipeline.sampler import Networks

NETWORK_OPTIONS = ("network", "preset", "networks", "guide", "strength")
SAMPLER_OPTIONS = ("steps", "solver", "churn", "batch", "dtype", "device")


def _list_presets(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from edm2.pipeline.published_presets import TITLES, published_presets

    for preset in published_presets().values():
        guided = "" if preset.guide is None else f" + {preset.guide} × {preset.strength:g}"
        value = f"{TITLES[preset.metric]} {preset.value:g}"
        click.echo(f"{preset.name:32} {value:17} {preset.network}{guided}")
    context.exit()


@click.command()
@click.argument("network", required=False)
@click.option(
    "--preset",
    metavar="NAME",
    help="Published networks and guidance strength, instead of NETWORK: see --list-presets.",
)
@click.option(
    "--list-presets",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_presets,
    help="List the presets with their published results, and exit.",
)
@click.option(
    "--networks",
    type=FILE,
    metavar="FOLDER",
    help="Folder of a preset's files; default: the cache.",
)
@click.option("--config", help="Training config of a project's NETWORK; default: G.")
@click.option(
    "--seeds",
    type=Seeds(),
    default="0-63",
    show_default=True,
    help="Or a list: 3,7.",
)
@click.option(
    "--classes",
    "--class",
    type=WholeNumbers(),
    help="Class numbers that the seeds take in turn, like 3 or 0,1,2; default: see sampling.labels.",
)
@click.option("--guide", help="A guide network, as NETWORK; default: NETWORK without labels.")
@click.option(
    "--strength",
    type=Strength(),
    help="Guidance strength; default: the preset's, or 1: no guidance.",
)
@click.option("--steps", type=int, help="Noise levels, at least 2.")
@click.option("--solver", help="heun or euler.")
@click.option("--churn", type=float, help="Fresh noise: S_churn; 0: deterministic.")
@click.option("--batch", type=int, help="Images per batch and rank.")
@click.option("--dtype", metavar="[fp32|bf16|fp16|auto]", help="Precision of activations.")
@click.option("--device", metavar="[auto|cpu|cuda|cuda:N]", help="Where to compute.")
@click.option("--out", type=FILE, default="samples", help="Folder; default: samples.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "shards"]),
    default="png",
    show_default=True,
    help="One file per image, or WebDataset shards.",
)
@click.option("--subdirs", is_flag=True, help="PNG files in folders of 1000: 000000/000012.png.")
@click.pass_obj
def sample(project: ProjectContext, /, **options: Any) -> None:
    """Make images of NETWORK.

    Without a project: a pickle of EDM2's authors, a folder of `edm2 export network`, an average with
    config.json beside it, or a repository of the Hugging Face Hub, owner/name. All that sampling needs comes
    from there, and the default sampler is that of EDM2's authors.

    In a project: a file of models/sweep/TRAINING/, or of `edm2 ema reconstruct`. Its shape and the sampler
    are those of params.yaml; codec and latents are the project's models/vae and data/latents.

    Existing images are kept, so that an interrupted run continues. With PNG files, a grid by class is
    also written. On several GPUs: torchrun --nproc_per_node=8 --no-python edm2 sample ...
    """
    from edm2.pipeline.portable_networks import PortableNetworks, is_portable
    from edm2.pipeline.sample_options import SampleOptions
    from edm2.pipeline.samples import SampleRequest, write_samples

    sampler = SampleOptions(**{name: options.pop(name) for name in SAMPLER_OPTIONS})
    network, guide, strength = _requested(**{name: options.pop(name) for name in NETWORK_OPTIONS})
    config, options["format"] = options.pop("config"), options.pop("kind")
    networks: Networks
    if is_portable(network):
        if config is not None:
            raise UserError(
                f"--config {config}: has no effect: {network} has its own. Leave it out."
            )
        paths = Path(network), None if guide is None else Path(guide)
        networks = PortableNetworks(network, guide, sampler)
    else:
        paths = absolute(network), None if guide is None else absolute(guide)
        networks = _of_project(project, paths[0], config or "G", sampler)
    write_samples(
        SampleRequest(network=paths[0], guide=paths[1], strength=strength, **options), networks
    )


def _requested(
    network: str | None,
    preset: str | None,
    networks: Path | None,
    guide: str | None,
    strength: float | None,
) -> tuple[str, str | None, float]:
    """Network, guide and guidance strength, those of a preset where one is named."""
    if preset is None:
        if network is None:
            raise click.UsageError("Expected NETWORK, or --preset NAME.")
        if networks is not None:
            raise click.UsageError("--networks: has no effect without --preset. Leave it out.")
        return network, guide, 1.0 if strength is None else strength
    if network is not None or guide is not None:
        named = network if guide is None else f"--guide {guide}"
        raise click.UsageError(
            f"{named}: --preset {preset} names its networks. Leave one of them out."
        )
    from edm2.pipeline.published_presets import fetch_networks, published_preset

    chosen = published_preset(preset)
    if strength is not None and chosen.guide is None:
        raise click.UsageError(f"--strength: --preset {preset} has no guide. Leave it out.")
    strength = chosen.strength if strength is None else strength
    if strength == 1:
        chosen = replace(chosen, guide=None)
    main, other = fetch_networks(chosen, networks)
    return str(main), None if other is None else str(other), strength


def _of_project(
    project: ProjectContext, network: Path, config: str, sampler: "SampleOptions"
) -> "Networks":
    """The networks of a config of the project, which becomes the current folder."""
    if project.root is None:
        problem = "" if network.exists() else "does not exist, or "
        raise UserError(
            f"{network}: {problem}not a network that describes itself (a pickle of EDM2's authors, a folder "
            "of `edm2 export network`, a file with config.json beside it, a repository owner/name), and "
            f"{project.start} is in no project whose network it could be. Change to the project, or name it: "
            "edm2 --project DIR sample ..."
        )
    root = project.enter()
    from edm2.params import load
    from edm2.pipeline.project_networks import ProjectNetworks

    params = sampler.params(load(root / "params.yaml"))
    folder = network.parent
    theirs = folder.name.rpartition("-")[0]
    if config != theirs and folder.parent == root / "models/sweep":
        raise UserError(
            f"--config {config}: {network} is a network of config {theirs}. Use --config {theirs}."
        )
    params.require_config(config, f"--config {config}", "params.yaml")
    return ProjectNetworks(params.of(config), config)
