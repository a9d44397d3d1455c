"""`edm2 export`: results in the formats of other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edm2.cli.option_types import FILE
from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError

if TYPE_CHECKING:
    from edm2.params import Params
    from edm2.pipeline.export_choice import Choice

SPLITS = {"train": "train", "held-out": "held_out"}


@click.group()
def export() -> None:
    """Write results in the formats of other programs."""


@export.command()
@click.argument("file", type=click.Path(path_type=Path, resolve_path=True))
@click.option(
    "--split",
    type=click.Choice(list(SPLITS)),
    default="train",
    show_default=True,
    help="Which images.",
)
@click.option("--latents", is_flag=True, help="Write latents (mean and std) instead of images.")
@click.pass_obj
def dataset(project: ProjectContext, file: Path, split: str, latents: bool) -> None:
    """Write the prepared images, or their latents, to FILE: a zip as the tools of EDM and StyleGAN make it.

    Images are PNG files with the labels in dataset.json. Latents are NumPy files, float32 [8, H, W] with
    means and standard deviations of 4 channels, as EDM2 trains on them; there are none of held-out images.
    """
    from edm2.data.dataset_zip import image_members, latent_members, write_dataset_zip
    from edm2.data.latents import LatentShards
    from edm2.data.prepared import open_images
    from edm2.pipeline.paths import IMAGES, LATENTS

    if latents and split != "train":
        raise UserError("--latents --split held-out: only training images are encoded.")
    project.enter()
    if file.suffix != ".zip":
        raise UserError(f"{file}: expected a name that ends in .zip.")
    if file.exists():
        raise UserError(f"{file}: exists. Remove it, or give another name.")
    if latents:
        members = latent_members(LatentShards(LATENTS, "train"))
    else:
        members = image_members(*open_images(IMAGES, SPLITS[split]))
    count = write_dataset_zip(file, members)
    click.echo(f"{count:,} {'latents' if latents else 'images'}: {file}")


@export.command()
@click.argument("folder", type=click.Path(path_type=Path, resolve_path=True))
@click.option(
    "--training", help="A config, or with its seed: G-0; default: the one with the best network."
)
@click.option("--ema-length", type=float, help="Network of the sweep; default: the best one.")
@click.option(
    "--network",
    "file",
    type=FILE,
    help="File of the network, instead; also a pickle of EDM2's authors, without a project.",
)
@click.option(
    "--license", "license_id", help="Of the weights, as the Hub names it, like cc-by-4.0."
)
@click.pass_obj
def network(
    project: ProjectContext,
    folder: Path,
    training: str | None,
    ema_length: float | None,
    file: Path | None,
    license_id: str | None,
) -> None:
    """Write a network to FOLDER, with all that `edm2 sample FOLDER` needs, and a model card.

    By default the network is the best one of the evaluation: of all trainings, or of --training. FOLDER has
    model.safetensors, config.json, codec/, checksums and README.md. In Python, Denoiser.from_pretrained
    reads it, and push_to_hub uploads it to the Hugging Face Hub, as does: hf upload OWNER/NAME FOLDER
    """
    from edm2.diffusion.pretrained import CONFIG, require_new

    require_new(folder)
    if file is not None and ema_length is not None:
        raise UserError("--network and --ema-length: expected only one of them.")
    if file is not None and (file.suffix == ".pkl" or (file.parent / CONFIG).is_file()):
        from edm2.pipeline.export_network import export_portable
        from edm2.pipeline.portable import read_portable

        if training is not None:
            raise UserError(f"--training {training}: has no effect: {file} describes itself.")
        export_portable(read_portable(file), license_id, folder)
        click.echo(f"network {file.name}: {folder}")
        return
    from edm2.params import load

    params = load(project.enter() / "params.yaml")
    from edm2.pipeline.export_network import export_choice

    choice = _choose(params, training, ema_length, file)
    export_choice(params, choice, license_id, folder)
    click.echo(f"network {choice.file.stem} of {choice.replicate}: {folder}")
    if not choice.evaluation:
        click.echo("note: it was not evaluated, so its card has no metrics.")
    if license_id is None:
        click.echo("note: no --license: its card states none, so others may not use the weights.")


def _choose(
    params: "Params", training: str | None, ema_length: float | None, file: Path | None
) -> "Choice":
    """The network that the options name; without any, the best one."""
    from edm2.pipeline.export_choice import choose_best, choose_file, choose_length

    if file is not None:
        return choose_file(params, training, file)
    if ema_length is not None:
        return choose_length(params, training, ema_length)
    return choose_best(params, training)


@export.command()
@click.argument("folder", type=click.Path(path_type=Path, resolve_path=True))
@click.option(
    "--from",
    "source",
    type=FILE,
    help="Instead of the project: folder of `edm2 vae train`; with --images, also that of a VAE alone, like "
    "those of `edm2 vae average`.",
)
@click.option(
    "--images",
    metavar="IMAGES",
    help="With --from: tars, a folder or a zip, from whose latents the factors of the config are computed.",
)
@click.option(
    "--resolution",
    type=click.IntRange(min=1),
    help="With --images: side to which they are resized.",
)
@click.pass_obj
def vae(
    project: ProjectContext,
    folder: Path,
    source: Path | None,
    images: str | None,
    resolution: int | None,
) -> None:
    """Write the trained VAE to FOLDER, as an AutoencoderKL of diffusers with a model card.

    Options that an AutoencoderKL does not have are an error that names them.
    """
    from edm2.pipeline.vae_export import export_vae

    if (images is None) != (resolution is None):
        raise UserError("--images, --resolution: expected both or neither of them.")
    if images is not None and source is None:
        raise UserError(
            "--images: has an effect only with --from. A project has training latents: remove it."
        )
    if source is None:
        project.enter("Or name the folder OUT of an `edm2 vae train`: --from OUT.")
    export_vae(folder, source, images, resolution)
    click.echo(f"AutoencoderKL of diffusers: {folder}")
