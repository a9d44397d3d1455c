"""Batches that the VAE is trained on."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

from edm2.data.images import ImageDataset
from edm2.data.stream import stream
from edm2.params.runtime import Runtime
from edm2.params.vae import Vae
from edm2.runtime.noise import normals
from edm2.runtime.randomness import generator

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 images [N, 3, R, R], noise [N, C, R/d, R/d]


@dataclass(frozen=True)
class AugmentedImages:
    """Reads images with random crops and flips; see `edm2.data.stream.Reader`."""

    dataset: ImageDataset
    min_area: float
    flip: float
    seed: int

    def __call__(self, numbers: range, indices: list[int]) -> tuple[torch.Tensor]:
        crops = (generator(self.seed, "vae/images", n) for n in numbers)
        return (self.dataset.augmented_batch(indices, crops, self.min_area, self.flip),)


def batches(
    images: ImageDataset, params: Vae, seed: int, runtime: Runtime, device: torch.device
) -> Callable[[int], Generator[Batch, None, None]]:
    """Training batches on `device` from a given time on, with the latent noise of each image.

    Crops, flips and noise depend on the seed and the image's number in the training only.
    """
    side = images.resolution // params.downscale
    shape = (params.latent_channels, side, side)
    read = AugmentedImages(images, params.images.min_area, params.images.flip, seed)

    def start(nimg: int) -> Generator[Batch, None, None]:
        for numbers, pixels in stream(read, params.batch, seed, nimg, runtime, device):
            yield pixels, normals(seed, "vae/noise", numbers, shape)

    return start
