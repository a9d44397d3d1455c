"""How much a decoder minds noise on the latents, at the noise levels of the diffusion."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch

from edm2.data.images import ImageDataset, max_batch_size
from edm2.data.normalization import Normalization
from edm2.data.passes import reduce_batches
from edm2.features.backbone import Backbone
from edm2.runtime.noise import normals
from edm2.vae.codec import Codec
from edm2.vae.evaluation import BATCH, quality_sums
from edm2.vae.losses import Loss, perceptual_loss

SIGMAS = (
    0.0,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
)  # σ_min to twice the latents' 0.5

IMAGES = 128  # that a report decodes at each level, at most


def robustness_table(
    codec: Codec,
    normalization: Normalization,
    images: ImageDataset,
    indices: Sequence[int],
    backbone: Backbone,
    device: torch.device,
) -> pd.DataFrame | None:
    """Quality of images that are decoded from normalized latents plus noise.

    Latents are the encoder's means, normalized to a standard deviation of 0.5 as in the diffusion; each image
    has the same noise at all levels. The ranks share the images; every rank must call this.

    Returns:
        On the main process rows with sigma, evaluated_images, and the means of psnr (dB; infinite if an
        image is exact), ssim and perceptual_<backbone>; None on the others.
    """
    compute = partial(_sums, codec, normalization.to(device), perceptual_loss(backbone), device)
    batch = min(BATCH, max_batch_size(images.resolution))
    sums = reduce_batches(images, indices, batch, compute, torch.add, "decoding with noise")
    if sums is None:
        return None
    names = ("psnr", "ssim", f"perceptual_{backbone.name}")
    means = pd.DataFrame((sums / len(indices)).tolist(), columns=names)
    means.insert(0, "evaluated_images", len(indices))
    means.insert(0, "sigma", SIGMAS)
    return means


@torch.no_grad()
def _sums(
    codec: Codec,
    normalization: Normalization,
    distance: Loss,
    device: torch.device,
    numbers: range,
    pixels: torch.Tensor,
    _: torch.Tensor,
) -> torch.Tensor:
    """The sums of a batch's qualities, float64 [levels, 3]."""
    pixels = pixels.to(device)
    latents = normalization.normalize(codec.encode(pixels)[0])
    noise = normals(0, "vae/robustness", torch.tensor(numbers, device=device), latents.shape[1:])
    decode = (codec.decode(normalization.denormalize(latents + s * noise)) for s in SIGMAS)
    rows = [quality_sums(pixels, decoded, distance) for decoded in decode]
    return torch.tensor(rows, dtype=torch.float64)
