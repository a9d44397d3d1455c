"""Combinations of `codec` and the VAE's backbone that cannot work, and the layout of the latents."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edm2.params.codec import CodecChoice
from edm2.params.errors import Problem
from edm2.params.seams import CODECS, VAE_BACKBONES
from edm2.params.tree import Params

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"  # as diffusers names them
PAPER_CHANNELS = 4  # channels of latents that EDM2 has constants for


def latent_layout(params: Params, root: Path) -> tuple[int, int] | None:
    """Image pixels per latent pixel along each side, and channels of the latents.

    None if the files of `codec.path` cannot be read, which `codec_problems` reports.
    """
    codec, kind = params.codec, CODECS[params.codec.kind]
    if kind.layout is not None:
        return kind.layout
    if kind.save is None:
        return params.vae.downscale, params.vae.latent_channels
    if codec.path is None:
        return 8, 4
    try:
        config = json.loads((root / codec.path / CONFIG).read_text(encoding="utf-8"))
        return 2 ** (len(config["block_out_channels"]) - 1), int(config["latent_channels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def codec_problems(params: Params, root: Path) -> Iterator[Problem]:
    layout = latent_layout(params, root)
    yield from _files(params.codec, layout, root)
    yield from _normalization(params.codec, layout)
    if params.codec.rounding == "truncate" and params.codec.kind in ("trained", "rgb"):
        yield Problem(
            "codec.rounding",
            "truncate",
            f"nearest with kind: {params.codec.kind}",
            "The paper's images were truncated for Stable Diffusion only.",
        )


def _files(codec: CodecChoice, layout: tuple[int, int] | None, root: Path) -> Iterator[Problem]:
    is_stable_diffusion = codec.kind == "stable_diffusion"
    if is_stable_diffusion and find_spec("diffusers") is None:
        yield Problem(
            "codec.kind",
            codec.kind,
            "the package diffusers to be installed",
            "Install it: pip install 'edm2[sd]'.",
        )
    if codec.path is not None and not is_stable_diffusion:
        yield Problem(
            "codec.path",
            codec.path,
            f"null with kind: {codec.kind}",
            "Set it to null, or set codec.kind to stable_diffusion.",
        )
    elif codec.path is not None:
        folder = root / codec.path
        if layout is None or not (folder / WEIGHTS).is_file():
            yield Problem(
                "codec.path",
                codec.path,
                f"a folder with {CONFIG} and {WEIGHTS} of a VAE",
                f"Looked for {folder}; in a whole pipeline it is the folder vae. "
                "Or set it to null: downloaded once.",
            )


def _normalization(codec: CodecChoice, layout: tuple[int, int] | None) -> Iterator[Problem]:
    if codec.normalization == "paper" and codec.kind == "trained":
        yield Problem(
            "codec.normalization",
            "paper",
            "dataset with kind: trained",
            "The paper has constants for Stable Diffusion and for pixels.",
        )
    if (
        codec.normalization == "paper"
        and codec.kind == "stable_diffusion"
        and layout
        and layout[1] != PAPER_CHANNELS
    ):
        yield Problem(
            "codec.normalization",
            "paper",
            f"dataset with latents of {layout[1]} channels (codec.path)",
            f"The paper has constants for {PAPER_CHANNELS} channels.",
        )


def backbone_problems(params: Params, root: Path) -> Iterator[Problem]:
    name, path = params.vae.backbone, params.vae.backbone_path
    resolution, kind = params.dataset.resolution, VAE_BACKBONES[name]
    if resolution < (kind.min_resolution or 1):
        yield Problem(
            "vae.backbone",
            name,
            f"a dataset.resolution of at least {kind.min_resolution} with it, not {resolution}",
            "Set it to classifier, or use larger images.",
        )
    if kind.published and path is not None and not (root / path).is_file():
        yield Problem(
            "vae.backbone_path",
            path,
            "a file that exists",
            f"Looked for {root / path}. Or set it to null: downloaded once.",
        )
    if not kind.published and path is not None:
        yield Problem(
            "vae.backbone_path",
            path,
            f"null with backbone: {name}",
            "Set it to null, or set vae.backbone to vgg16.",
        )
