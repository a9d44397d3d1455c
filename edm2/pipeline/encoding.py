"""Training images → latents, their mean and standard deviation per channel, and a report on them."""

import torch

from edm2.data.damage import refuse_damaged, warn_of_doubtful
from edm2.data.latent_import import import_shards, require_shape
from edm2.data.latents import latent_metadata, measured_normalization
from edm2.data.normalization import Normalization
from edm2.data.prepared import has_images, open_images, open_latents
from edm2.pipeline.latent_report import write_latent_report
from edm2.pipeline.paths import IMAGES, LATENTS, VAE
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import barrier, is_main_process
from edm2.runtime.manifest import write_manifest
from edm2.vae.codec import Codec, load_codec
from edm2.vae.encoding import encode_shards

NOT_READ = "latents cannot be used"


def encode_latents(context: StageContext) -> None:
    """Encode all training images, or import the latents of the source; each rank takes some of the shards."""
    out, dtype = context.out(LATENTS), getattr(torch, context.params.latents.dtype)
    codec = load_codec(VAE, context.device)
    classes, count = (_encode if has_images(IMAGES) else _import)(context, codec, dtype)
    if is_main_process():
        metadata = latent_metadata(out, codec.normalization, dtype)
        write_manifest(out, classes=classes, **metadata)
        shape = "×".join(map(str, metadata["shape"]))
        context.conclude(f"{count:,} latents of {shape}")
    barrier()
    write_latent_report(context, codec)


def _encode(context: StageContext, codec: Codec, dtype: torch.dtype) -> tuple[list[str], int]:
    """Returns the classes, and the number of latents."""
    (images,) = open_images(IMAGES, "train")
    damaged = encode_shards(codec, images, context.out(LATENTS), context.device, dtype)
    warn_of_doubtful(images.doubtful)
    refuse_damaged(damaged, len(images), images.after_repair)
    return images.classes, len(images)


def _import(context: StageContext, codec: Codec, dtype: torch.dtype) -> tuple[list[str], int]:
    """Returns the classes, and the number of latents. Warns of latents of another scale than the codec's."""
    latents, out = open_latents(IMAGES), context.out(LATENTS)
    side = latents.dataset.resolution // codec.downscale
    shape = (codec.channels, side, side)
    codec_name = f"codec.kind {context.params.codec.kind}"
    require_shape(latents.source, latents.dataset, shape, codec_name)
    damaged = import_shards(latents, out, shape, dtype, context.params.runtime.workers)
    refuse_damaged(damaged, len(latents), latents.after_repair, NOT_READ)
    if is_main_process() and codec.normalization is not None:
        _compare_scales(measured_normalization(out), codec.normalization)
    return latents.source.classes, len(latents)


def _compare_scales(measured: Normalization, expected: Normalization) -> None:
    """Warn if a channel is off by more than a standard deviation, or a factor of two."""
    offset = (measured.mean - expected.mean).abs() / expected.std
    ratio = measured.std / expected.std
    if (offset > 1).any() or (ratio > 2).any() or (ratio < 0.5).any():
        print(
            f"warning: the latents have means {_numbers(measured.mean)} and standard deviations "
            f"{_numbers(measured.std)} by channel, and codec.normalization: paper takes them to be "
            f"{_numbers(expected.mean)} and {_numbers(expected.std)}. They may be of another codec, or on "
            "another scale."
        )


def _numbers(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist())
