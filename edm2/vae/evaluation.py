"""How well a codec brings images back, and what its latents are like."""

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from edm2.data.images import ImageDataset, max_batch_size, to_float
from edm2.features.backbone import Backbone
from edm2.vae.codec import Codec
from edm2.vae.losses import perceptual_loss

BATCH = 256
QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
VALUES = 2**22  # of the latents, evenly picked, that statistics are taken of


@torch.no_grad()
def evaluate(
    codec: Codec, images: ImageDataset, backbone: Backbone, device: torch.device
) -> dict[str, float]:
    """Quality of reconstructions from the latent's mean, as uint8 images; means over images.

    Returns:
        psnr: peak signal-to-noise ratio in dB, peak to peak 2 in [-1, 1]; infinite where nothing is
            lost.
        ssim: structural similarity (Wang et al. 2004) in windows of 7×7, mean over channels.
        perceptual_<backbone>: perceptual distance; with VGG16 it is LPIPS.
        latent/...: see `latent_statistics`, of the latents' means.
    """
    distance = perceptual_loss(backbone)
    psnr = ssim = perceptual = 0.0
    latents, stride = [], 0
    for pixels, _ in images.batches(BATCH):
        for part in pixels.to(device).split(max_batch_size(pixels.shape[-1])):
            mean, _ = codec.encode(part)
            decoded = codec.decode(mean)
            x, y = to_float(part), to_float(decoded)
            error = (x - y).square().mean(dim=(1, 2, 3))
            psnr += float((10 * torch.log10(4 / error)).sum())
            ssim += sum(_similarity(a, b) for a, b in zip(part, decoded, strict=True))
            perceptual += float(distance(x, y)) * len(x)
            stride = (
                stride or -(-len(images) * mean[0].numel() // VALUES) | 1
            )  # odd: of all columns
            latents.append(mean.permute(1, 0, 2, 3).flatten(1)[:, ::stride].cpu().numpy())
    count = len(images)
    quality = {
        "psnr": psnr / count,
        "ssim": ssim / count,
        f"perceptual_{backbone.name}": perceptual / count,
    }
    return quality | latent_statistics(np.concatenate(latents, axis=1))


def latent_statistics(latents: NDArray[np.floating]) -> dict[str, float]:
    """What latents [C, values] look like.

    Returns:
        latent/std, latent/mean_abs, latent/skewness, latent/kurtosis (3 for a Gaussian),
        latent/quantile_<q>, and latent/mean_<c>, latent/std_<c> per channel.
    """
    values = latents.astype(np.float64).ravel()
    centered = (values - values.mean()) / max(values.std(), 1e-12)
    found = {
        "std": values.std(),
        "mean_abs": np.abs(values).mean(),
        "skewness": (centered**3).mean(),
        "kurtosis": (centered**4).mean(),
        **{f"quantile_{q:g}": np.quantile(values, q) for q in QUANTILES},
        **{f"mean_{c}": row.mean() for c, row in enumerate(latents)},
        **{f"std_{c}": row.std() for c, row in enumerate(latents)},
    }
    return {f"latent/{name}": float(value) for name, value in found.items()}


def _similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two uint8 images [3, R, R]."""
    return float(structural_similarity(a.cpu().numpy(), b.cpu().numpy(), channel_axis=0))
