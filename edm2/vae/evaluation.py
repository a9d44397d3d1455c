"""Quality of a codec's reconstructions, and statistics of its latents."""

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
MAX_LATENT_VALUES = 2**22  # that statistics are computed from


@torch.no_grad()
def evaluate(
    codec: Codec, images: ImageDataset, backbone: Backbone, device: torch.device
) -> dict[str, float]:
    """Means over images of the quality of their reconstructions, decoded from the latents' means.

    Both images and reconstructions are uint8.

    Returns:
        psnr: peak signal-to-noise ratio in dB; infinite if a reconstruction is exact.
        ssim: structural similarity (Wang et al. 2004), 7×7 windows, mean over channels.
        perceptual_<backbone>: perceptual distance; with VGG16 it is LPIPS.
        latent/...: see `latent_statistics`; of the latents' means.
    """
    distance = perceptual_loss(backbone)
    psnr = ssim = perceptual = 0.0
    latents = []
    for pixels, _ in images.batches(BATCH):
        for part in pixels.to(device).split(max_batch_size(pixels.shape[-1])):
            mean, _ = codec.encode(part)
            decoded = codec.decode(mean)
            x, y = to_float(part), to_float(decoded)
            error = (x - y).square().mean(dim=(1, 2, 3))
            psnr += float((10 * torch.log10(4 / error)).sum())  # [-1, 1]: peak to peak 2
            ssim += sum(_similarity(a, b) for a, b in zip(part, decoded, strict=True))
            perceptual += float(distance(x, y)) * len(x)
            stride = _stride(len(images) * mean[0].numel())
            latents.append(mean.permute(1, 0, 2, 3).flatten(1)[:, ::stride].cpu().numpy())
    count = len(images)
    quality = {
        "psnr": psnr / count,
        "ssim": ssim / count,
        f"perceptual_{backbone.name}": perceptual / count,
    }
    return quality | latent_statistics(np.concatenate(latents, axis=1))


def latent_statistics(latents: NDArray[np.floating]) -> dict[str, float]:
    """Statistics of latents [C, values].

    Returns:
        latent/std, latent/mean_abs, latent/skewness, latent/kurtosis (3 for a Gaussian),
        latent/quantile_<q>, and latent/mean_<c>, latent/std_<c> of each channel c.
    """
    values = latents.astype(np.float64).ravel()
    standardized = (values - values.mean()) / max(values.std(), 1e-12)
    statistics = {
        "std": values.std(),
        "mean_abs": np.abs(values).mean(),
        "skewness": (standardized**3).mean(),
        "kurtosis": (standardized**4).mean(),
        **{f"quantile_{q:g}": np.quantile(values, q) for q in QUANTILES},
        **{f"mean_{c}": row.mean() for c, row in enumerate(latents)},
        **{f"std_{c}": row.std() for c, row in enumerate(latents)},
    }
    return {f"latent/{name}": float(value) for name, value in statistics.items()}


def _stride(values: int) -> int:
    """Step between the latent values that statistics use; odd, so that no column is left out."""
    return -(-values // MAX_LATENT_VALUES) | 1


def _similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """SSIM of two uint8 images [3, R, R]."""
    return float(structural_similarity(a.cpu().numpy(), b.cpu().numpy(), channel_axis=0))
