"""How well a codec brings images back."""

import torch

from edm2.data.images import Images, at_once, to_float
from edm2.features.backbone import Backbone
from edm2.vae.codec import Codec
from edm2.vae.losses import perceptual_loss

BATCH = 256


@torch.no_grad()
def evaluate(
    codec: Codec, images: Images, backbone: Backbone, device: torch.device
) -> dict[str, float]:
    """Quality of reconstructions from the latent's mean, as uint8 images.

    Returns:
        psnr: mean over images of the peak signal-to-noise ratio in dB, peak to peak 2 in [-1, 1];
            infinite where nothing is lost.
        perceptual: mean perceptual distance.
        latent_std: standard deviation of all latent means.
    """
    distance = perceptual_loss(backbone)
    psnr = perceptual = 0.0
    latents = []
    for pixels, _ in images.batches(BATCH):
        for part in pixels.to(device).split(at_once(pixels.shape[-1])):
            mean, _ = codec.encode(part)
            x, y = to_float(part), to_float(codec.decode(mean))
            error = (x - y).square().mean(dim=(1, 2, 3))
            psnr += float((10 * torch.log10(4 / error)).sum())
            perceptual += float(distance(x, y)) * len(x)
            latents.append(mean.cpu())
    count = len(images)
    return {"psnr": psnr / count, "perceptual": perceptual / count,
            "latent_std": float(torch.cat(latents).std())}  # fmt: skip
