"""The project's trained VAE as a folder that diffusers loads: `edm2 export vae`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from edm2.data.latents import LatentShards
from edm2.data.normalization import Normalization
from edm2.data.prepared import open_images
from edm2.data.sized import SizedImages
from edm2.data.sources.unlabeled import open_unlabeled
from edm2.data.tars import INDICES
from edm2.diffusion.pretrained import CARD, new_folder, require_new
from edm2.features.weights import cache_folder
from edm2.params import UserError
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.training_checks import nearest
from edm2.pipeline.latent_scale import latent_scale
from edm2.pipeline.paths import IMAGES, LATENT_MOMENTS, LATENTS, VAE
from edm2.pipeline.vae_card import vae_card
from edm2.runtime.checksums import require_checksum
from edm2.runtime.files import replacing, write_json, write_text
from edm2.runtime.manifest import MANIFEST, load_manifest
from edm2.vae.codec import TrainedVae, load_codec
from edm2.vae.diffusers_format import autoencoder_config, format_problems, to_diffusers

CPU = torch.device("cpu")
METRICS = Path("reports/vae/metrics.json")
MAX_IMAGES = 5_000  # that the scale of latents is computed from
TOLERANCE = 0.05  # of stored latents, in standard deviations: devices round differently


class _Images(NamedTuple):
    """What is known of a VAE's images.

    Attributes:
        manifest: that of data/images, or at least the resolution.
        metrics: those of reports/vae/metrics.json; none if they are not known.
        normalization: of the latents of the images that `normalized` names.
    """

    manifest: Mapping[str, Any]
    metrics: Mapping[str, float]
    normalization: Normalization
    normalized: str


def export_vae(
    folder: Path,
    source: Path | None = None,
    images: str | None = None,
    resolution: int | None = None,
) -> None:
    """Write config, weights and model card of an `AutoencoderKL`; the folder appears when it is complete.

    Args:
        source: folder of `edm2 vae train` or, with `images`, also one like models/vae; None: the current
            one, which is a project.
        images: folder, zip or tars of images, from whose latents the factors are computed, with
            `resolution`, the side to which they are resized; None: those of the VAE's training.

    Raises:
        UserError: the folder exists; no VAE is trained here; a result is missing, or was made with another
            VAE; images cannot be read; or the VAE has options that an `AutoencoderKL` does not have, which
            are all named.
    """
    require_new(folder)
    place = VAE if source is None else _place(source, images is not None)
    codec, manifest = load_codec(place, CPU), load_manifest(place)
    if not isinstance(codec, TrainedVae):
        raise UserError(
            f"{place}: codec.kind is {manifest['kind']}, so no VAE is trained here. "
            "Expected trained: only such a VAE is exported."
        )
    params = codec.params
    problems = list(format_problems(codec.network, params))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{place}: its options do not fit diffusers' AutoencoderKL:\n{lines}")
    if images is not None and resolution is not None:
        about = _named_images(codec, images, resolution)
    else:
        about = _project_images(codec) if source is None else _held_out_images(source)
    side, normalization = about.manifest["resolution"], about.normalization
    card = vae_card(folder.name, params, *about, manifest)
    with new_folder(folder) as partial:
        write_json(partial / CONFIG, autoencoder_config(codec.network, params, side, normalization))
        metadata = {"format": "pt"}  # as other programs mark it
        with replacing(partial / WEIGHTS) as weights:
            save_file(to_diffusers(codec.network, params), weights, metadata)
        write_text(partial / CARD, card)


def _project_images(codec: TrainedVae) -> _Images:
    normalization = _latents(codec).normalization
    return _Images(load_manifest(IMAGES), _read(METRICS), normalization, "training images")


def _held_out_images(source: Path) -> _Images:
    latents = _read(source / LATENT_MOMENTS)
    normalization = Normalization(torch.tensor(latents["mean"]), torch.tensor(latents["std"]))
    return _Images(latents, _read(source / METRICS), normalization, "held-out images")


def _named_images(codec: TrainedVae, path: str, resolution: int) -> _Images:
    """
    Raises:
        UserError: images that cannot be read, or a resolution that the VAE cannot take.
    """
    if resolution % codec.downscale:
        hint = nearest(resolution, codec.downscale)
        raise UserError(
            f"--resolution {resolution}: expected a multiple of {codec.downscale}. {hint}"
        )
    files = open_unlabeled(path, "--images", cache_folder() / INDICES)
    images = SizedImages(files, resolution, "lanczos", len(files.labels))
    moments = latent_scale(codec, images, MAX_IMAGES, CPU)
    assert moments is not None  # there is one process
    normalized = f"{moments.images:,} images of {Path(path).name}"
    return _Images({"resolution": resolution}, {}, moments.normalization(), normalized)


def _place(source: Path, with_images: bool) -> Path:
    """The folder of the VAE in that of `edm2 vae train`, or the same folder if it is a VAE alone.

    Raises:
        UserError: it is neither, or incomplete; or a VAE alone, without images.
    """
    if (source / MANIFEST).exists():
        if with_images:
            return source
        raise UserError(
            f"--from {source}: is a VAE alone, without the scale of its latents. Expected images to compute "
            "it from: --images '/data/00099.tar' --resolution 256."
        )
    needed = [VAE / MANIFEST] + [METRICS, LATENT_MOMENTS] * (not with_images)
    for file in needed:
        if not (source / file).exists():
            raise UserError(
                f"--from {source}: has no {file}. Expected the folder OUT of a complete `edm2 vae train`: "
                "name that, or run the training to its end."
            )
    return source / VAE


def _read(path: Path) -> dict[str, Any]:
    """
    Raises:
        UserError: the file is missing, or corrupted.
    """
    content: dict[str, Any] = json.loads(require_checksum(path).read_text(encoding="utf-8"))
    return content


def _latents(codec: TrainedVae) -> LatentShards:
    """The training latents, after comparing the first one with what the VAE makes of its image.

    Raises:
        UserError: they are missing, or were made with another VAE.
    """
    latents, (images,) = LatentShards(LATENTS, "train"), open_images(IMAGES, "train")
    stored = latents.batch([0])[0].float()
    mean = codec.encode(images.batch([0])[0])[0]
    scale = latents.normalization.std.reshape(-1, 1, 1)
    if mean.shape != stored.shape or ((mean - stored).abs() > TOLERANCE * scale).any():
        raise UserError(
            f"{LATENTS}: latent number 0 is not what {VAE} makes of image number 0 in {IMAGES}: made with "
            "another VAE, or of other images. Run `dvc repro encode_latents`."
        )
    return latents
