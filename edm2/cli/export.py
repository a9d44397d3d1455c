"""`edm2 export`: results in the formats of other programs."""

from pathlib import Path

import click

from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError
from edm2.runtime.messages import counted

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
    click.echo(f"{counted(count)} {'latents' if latents else 'images'}: {file}")


@export.command()
@click.argument("folder", type=click.Path(path_type=Path, resolve_path=True))
@click.pass_obj
def vae(project: ProjectContext, folder: Path) -> None:
    """Write the trained VAE to FOLDER, as an AutoencoderKL of diffusers with a model card.

    Options that an AutoencoderKL does not have are an error that names them.
    """
    from edm2.pipeline.vae_export import export_vae

    project.enter()
    export_vae(folder)
    click.echo(f"AutoencoderKL of diffusers: {folder}")
