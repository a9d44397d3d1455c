"""Training images → latents, and their mean and standard deviation per channel."""

import torch

from edm2.data.damage import refuse_damaged, warn_of_doubtful
from edm2.data.latents import latent_metadata
from edm2.data.prepared import open_images
from edm2.pipeline.paths import IMAGES, LATENTS, VAE
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.runtime.manifest import write_manifest
from edm2.runtime.messages import counted
from edm2.vae.codec import load_codec
from edm2.vae.encoding import encode_shards


def encode_latents(context: StageContext) -> None:
    """Encode all training images; each rank encodes some of the shards."""
    out = context.out(LATENTS)
    (images,) = open_images(IMAGES, "train")
    codec = load_codec(VAE, context.device)
    dtype: torch.dtype = getattr(torch, context.params.latents.dtype)
    damaged = encode_shards(codec, images, out, context.device, dtype)
    warn_of_doubtful(images.doubtful)
    refuse_damaged(damaged, len(images), images.after_repair)
    if is_main_process():
        metadata = latent_metadata(out, codec.normalization, dtype)
        write_manifest(out, classes=images.classes, **metadata)
        shape = "×".join(map(str, metadata["shape"]))
        context.conclude(f"{counted(len(images))} latents of {shape}")
