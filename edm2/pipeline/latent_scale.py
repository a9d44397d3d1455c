"""Mean and standard deviation of a codec's latents of some images."""

import torch

from edm2.data.images import ImageDataset, max_batch_size
from edm2.data.latents import LatentMoments
from edm2.data.passes import reduce_batches
from edm2.vae.codec import Codec
from edm2.vae.evaluation import evaluated_images


def latent_scale(
    codec: Codec, images: ImageDataset, limit: int | None, device: torch.device
) -> LatentMoments | None:
    """The moments of the latents, on the main process; None on the others. Every rank must call this.

    Args:
        limit: largest number of images; see `evaluated_images`.

    Raises:
        UserError: images that cannot be read; lists all.
    """
    side = images.resolution // codec.downscale

    def compute(_: range, pixels: torch.Tensor, labels: torch.Tensor) -> LatentMoments:
        moments = LatentMoments.empty((codec.channels, side, side))
        moments.update(*codec.encode(pixels.to(device)))
        return moments

    indices = evaluated_images(len(images), limit)
    batch = max_batch_size(images.resolution)
    return reduce_batches(images, indices, batch, compute, LatentMoments.merge, "latents")
