"""The project's trained VAE as a folder that diffusers loads: `edm2 export vae`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edm2.data.latents import LatentShards
from edm2.data.normalization import Normalization
from edm2.data.prepared import open_images
from edm2.diffusion.pretrained import CARD, new_folder, require_new
from edm2.params import UserError
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.pipeline.paths import IMAGES, LATENT_MOMENTS, LATENTS, VAE
from edm2.pipeline.vae_card import vae_card
from edm2.runtime.checksums import require_checksum
from edm2.runtime.files import replacing, write_json, write_text
from edm2.runtime.manifest import MANIFEST, load_manifest
from edm2.vae.codec import TrainedVae, load_codec
from edm2.vae.diffusers_format import autoencoder_config, format_problems, to_diffusers

METRICS = Path("reports/vae/metrics.json")
TOLERANCE = 0.05  # of stored latents, in standard deviations: devices round differently


def export_vae(folder: Path, source: Path | None = None) -> None:
    """Write config, weights and model card of an `AutoencoderKL`; the folder appears when it is complete.

    Args:
        source: folder of `edm2 vae train`; None: the current one, which is a project.

    Raises:
        UserError: the folder exists; no VAE is trained here; a result is missing, or was made with another
            VAE; or the VAE has options that an `AutoencoderKL` does not have, which are all named.
    """
    require_new(folder)
    root = source or Path()
    if source is not None:
        _require_complete(source)
    codec, manifest = load_codec(root / VAE, torch.device("cpu")), load_manifest(root / VAE)
    if not isinstance(codec, TrainedVae):
        raise UserError(
            f"{root / VAE}: codec.kind is {manifest['kind']}, so no VAE is trained here. "
            "Expected trained: only such a VAE is exported."
        )
    params = codec.params
    problems = list(format_problems(codec.network, params))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{root / VAE}: its options do not fit diffusers' AutoencoderKL:\n{lines}")
    metrics = _read(root / METRICS)
    if source is None:
        images, normalization = load_manifest(IMAGES), _latents(codec).normalization
    else:
        images = _read(source / LATENT_MOMENTS)
        normalization = Normalization(torch.tensor(images["mean"]), torch.tensor(images["std"]))
    config = autoencoder_config(codec.network, params, images["resolution"], normalization)
    of = "training" if source is None else "held-out"
    card = vae_card(folder.name, params, images, metrics, normalization, of, manifest)
    with new_folder(folder) as partial:
        write_json(partial / CONFIG, config)
        metadata = {"format": "pt"}  # as other programs mark it
        with replacing(partial / WEIGHTS) as weights:
            save_file(to_diffusers(codec.network, params), weights, metadata)
        (partial / WEIGHTS).chmod(0o644)  # by itself, it could be read by its owner alone
        write_text(partial / CARD, card)


def _require_complete(source: Path) -> None:
    for file in (VAE / MANIFEST, METRICS, LATENT_MOMENTS):
        if not (source / file).exists():
            raise UserError(
                f"--from {source}: has no {file}. Expected the folder OUT of a complete `edm2 vae train`: "
                "name that, or run the training to its end."
            )


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
