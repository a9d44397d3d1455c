"""Equivariance: a transformed latent must decode to the image under the same transform.

Transforms are flips, crops and downscaling. The last is EQ-VAE's (Kouzelis et al. 2025, arXiv:2502.09509),
whose latents have less power at high frequencies. All are applied to the sample z = μ + √v·ε that the decoder
is trained on. Downscaling averages its noise, too, so that the decoder gets less of it than √v then.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from edm2.params.vae import Equivariance
from edm2.runtime.randomness import generator


@dataclass(frozen=True)
class Transform:
    """Flips of each image, then one crop and one size for all.

    Attributes:
        flips: bool [N, 2]: whether each image is flipped horizontally, and vertically; None: none is.
        flip_channels: number of latent channels per axis that a flip negates: the last ones for
            vertical flips, as many before them for horizontal ones. In them a latent can say what
            is left and right, and what is up and down.
        crop: top, left and side in latent pixels; None: no crop.
        scaled_side: of the latents after they are downscaled, in pixels; None: they keep their size.
    """

    flips: torch.Tensor | None
    flip_channels: int
    crop: tuple[int, int, int] | None
    scaled_side: int | None

    def apply_to_latents(self, z: torch.Tensor) -> torch.Tensor:
        """[N, C, h, w] → [N, C, side, side], of the side of the crop or the scaled one."""
        if self.flips is None:
            return self._resized(z, 1)
        flips = self.flips.to(z.device, non_blocking=True)
        z = _flip(z, flips)
        signs = torch.ones(len(z), z.shape[1], device=z.device, dtype=z.dtype)
        if self.flip_channels:
            signs[:, -2 * self.flip_channels : -self.flip_channels] -= 2 * flips[:, :1].to(z.dtype)
            signs[:, -self.flip_channels :] -= 2 * flips[:, 1:].to(z.dtype)
        return self._resized(z * signs[:, :, None, None], 1)

    def apply_to_images(self, images: torch.Tensor, downscale: int) -> torch.Tensor:
        """The images [N, 3, R, R] that the transformed latents should decode to.

        Args:
            downscale: image pixels per latent pixel, along each side.
        """
        if self.flips is not None:
            images = _flip(images, self.flips.to(images.device, non_blocking=True))
        return self._resized(images, downscale)

    def _resized(self, x: torch.Tensor, unit: int) -> torch.Tensor:
        """Crop, then downscale.

        Args:
            unit: pixels of x in a latent pixel, along each side.
        """
        if self.crop is not None:
            top, left, side = (value * unit for value in self.crop)
            x = x[:, :, top : top + side, left : left + side]
        if self.scaled_side is None:
            return x
        side = self.scaled_side * unit
        small = F.interpolate(x.float(), (side, side), mode="bilinear", antialias=True)
        return small.to(x.dtype)


def random_transform(
    equivariance: Equivariance, seed: int, nimg: int, batch: int, part: slice, side: int
) -> Transform:
    """The transform of some images of the batch of time `nimg`.

    Args:
        batch: images of the whole batch, over all ranks.
        part: the images of the batch that it is for; the draws do not depend on it.
        side: of the latents, in pixels.
    """
    rng = generator(seed, "vae/view", nimg)
    flips = torch.from_numpy(rng.random((batch, 2)) < equivariance.flip)[part]
    cropped, crop_side = rng.random() < equivariance.crop, equivariance.cropped_side(side)
    top, left = rng.integers(0, side - crop_side + 1, size=2).tolist()
    crop = (top, left, crop_side) if cropped else None
    sides = equivariance.scaled_sides(crop_side if cropped else side)
    scaled = rng.random() < equivariance.scale
    scaled_side = int(rng.choice(sides)) if scaled else None
    return Transform(flips if flips.any() else None, equivariance.flip_channels, crop, scaled_side)


def _flip(x: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    for column, dim in ((0, -1), (1, -2)):
        x = torch.where(flips[:, column, None, None, None], x.flip(dim), x)
    return x
