"""Codecs that need no training: the Stable Diffusion VAE, and pixel space."""

import shutil
from pathlib import Path

from edm2.features.weights import cache_folder
from edm2.params import UserError
from edm2.params.codec import CodecChoice
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.registry import implementation
from edm2.params.seams import CODECS
from edm2.runtime.manifest import write_manifest

REPOSITORY = "stabilityai/sd-vae-ft-mse"  # MIT license; the VAE of EDM2's latents


def save_codec(choice: CodecChoice, folder: Path, root: Path) -> None:
    """Write a codec that is not trained here, with all files that it needs, for `load_codec`.

    Args:
        root: folder that `choice.path` is relative to.

    Raises:
        UserError: the VAE is not in the cache and cannot be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    implementation(CODECS[choice.kind].save)(choice, folder, root)
    write_manifest(
        folder, kind=choice.kind, normalization=choice.normalization, rounding=choice.rounding
    )


def save_stable_diffusion(choice: CodecChoice, folder: Path, root: Path) -> None:
    source = published_vae() if choice.path is None else root / choice.path
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source / name, folder / name)


def save_nothing(choice: CodecChoice, folder: Path, root: Path) -> None:
    """For codecs without files."""


def published_vae() -> Path:
    """The cache folder of the published VAE; `huggingface_hub` downloads what is missing."""
    from huggingface_hub import hf_hub_download

    folder = cache_folder() / REPOSITORY.rpartition("/")[2]
    try:
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).exists():
                hf_hub_download(REPOSITORY, name, local_dir=folder)
    except OSError as error:
        raise UserError(
            f"https://huggingface.co/{REPOSITORY}: cannot be downloaded ({error}). Download "
            f"{CONFIG} and {WEIGHTS} on another machine and put both into {folder}, or set "
            "codec.path to their folder."
        ) from None
    return folder
