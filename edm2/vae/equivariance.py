"""Equivariance: a latent that is flipped or cropped must decode to the flipped or cropped image."""

from dataclasses import dataclass

import torch

from edm2.params.vae import Equivariance
from edm2.runtime.randomness import generator


@dataclass(frozen=True)
class Transform:
    """Flips of each image, then one crop for all.

    Attributes:
        flips: bool [N, 2]: whether each image is flipped horizontally, and vertically.
        flip_channels: number of latent channels per axis that a flip negates: the last ones for
            vertical flips, as many before them for horizontal ones. In them a latent can say what
            is left and right, and what is up and down.
        crop: top, left and side in latent pixels; None: no crop.
    """

    flips: torch.Tensor
    flip_channels: int
    crop: tuple[int, int, int] | None

    def apply_to_latents(self, z: torch.Tensor) -> torch.Tensor:
        """[N, C, h, w] → [N, C, h, w] or, with a crop, [N, C, side, side]."""
        if not self.flips.any():
            return _crop(z, self.crop, 1)
        flips = self.flips.to(z.device, non_blocking=True)
        z = _flip(z, flips)
        signs = torch.ones(len(z), z.shape[1], device=z.device, dtype=z.dtype)
        if self.flip_channels:
            signs[:, -2 * self.flip_channels : -self.flip_channels] -= 2 * flips[:, :1].to(z.dtype)
            signs[:, -self.flip_channels :] -= 2 * flips[:, 1:].to(z.dtype)
        return _crop(z * signs[:, :, None, None], self.crop, 1)

    def apply_to_images(self, images: torch.Tensor, downscale: int) -> torch.Tensor:
        """The images [N, 3, R, R] that the transformed latents should decode to.

        Args:
            downscale: image pixels per latent pixel, along each side.
        """
        flips = self.flips.to(images.device, non_blocking=True)
        return _crop(_flip(images, flips), self.crop, downscale)


def random_transform(
    equivariance: Equivariance, seed: int, nimg: int, batch: int, part: slice, side: int
) -> Transform:
    """The transform of some images of the batch of time `nimg`.

    Args:
        batch: images of the whole batch, over all ranks.
        part: the images of the batch that it is for; the draws do not depend on it.
        side: of the latents, in pixels; a crop is half as wide, rounded up.
    """
    rng = generator(seed, "vae/view", nimg)
    flips = torch.from_numpy(rng.random((batch, 2)) < equivariance.flip)[part]
    cropped, crop_side = rng.random() < equivariance.crop, (side + 1) // 2
    top, left = rng.integers(0, side - crop_side + 1, size=2).tolist()
    crop = (top, left, crop_side) if cropped else None
    return Transform(flips, equivariance.flip_channels, crop)


def _flip(x: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    for column, dim in ((0, -1), (1, -2)):
        x = torch.where(flips[:, column, None, None, None], x.flip(dim), x)
    return x


def _crop(x: torch.Tensor, crop: tuple[int, int, int] | None, scale: int) -> torch.Tensor:
    if crop is None:
        return x
    top, left, side = (value * scale for value in crop)
    return x[:, :, top : top + side, left : left + side]
