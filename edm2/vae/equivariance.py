"""Views: what is done to a latent and asked of its image alike, so that the decoder must follow."""

from dataclasses import dataclass

import torch

from edm2.params.vae import Equivariance
from edm2.runtime.randomness import generator


@dataclass(frozen=True)
class View:
    """Flips per image, and one crop for all.

    Attributes:
        flips: bool [N, 2]: whether each image is flipped horizontally, and vertically.
        channels: latent channels that a flip negates: the last ones for a vertical flip, as many
            before them for a horizontal one. They can tell left from right, and up from down.
        crop: top, left and side in latent pixels; None: the whole.
    """

    flips: torch.Tensor
    channels: int
    crop: tuple[int, int, int] | None

    def of_latents(self, z: torch.Tensor) -> torch.Tensor:
        """[N, C, h, w] → the same, flipped and cropped."""
        if not self.flips.any():
            return _cropped(z, self.crop, 1)
        flips = self.flips.to(z.device)
        z = _flipped(z, flips)
        signs = torch.ones(len(z), z.shape[1], device=z.device, dtype=z.dtype)
        if self.channels:
            signs[:, -2 * self.channels : -self.channels] -= 2 * flips[:, :1].to(z.dtype)
            signs[:, -self.channels :] -= 2 * flips[:, 1:].to(z.dtype)
        return _cropped(z * signs[:, :, None, None], self.crop, 1)

    def of_images(self, images: torch.Tensor, downscale: int) -> torch.Tensor:
        """[N, 3, R, R] → what the latents' view should decode to."""
        return _cropped(_flipped(images, self.flips.to(images.device)), self.crop, downscale)


def draw_view(
    equivariance: Equivariance, seed: int, nimg: int, batch: int, part: slice, side: int
) -> View:
    """The view of a rank's part of the batch of time `nimg`.

    Args:
        batch: images of the joint batch, of which `part` is this rank's.
        side: of the latents, in pixels; a crop is half as wide.
    """
    rng = generator(seed, "vae/view", nimg)
    flips = torch.from_numpy(rng.random((batch, 2)) < equivariance.flip)[part]
    cropped, small = rng.random() < equivariance.crop, (side + 1) // 2
    top, left = rng.integers(0, side - small + 1, size=2).tolist()
    return View(flips, equivariance.flip_channels, (top, left, small) if cropped else None)


def _flipped(x: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    for column, dim in ((0, -1), (1, -2)):
        x = torch.where(flips[:, column, None, None, None], x.flip(dim), x)
    return x


def _cropped(x: torch.Tensor, crop: tuple[int, int, int] | None, scale: int) -> torch.Tensor:
    if crop is None:
        return x
    top, left, side = (value * scale for value in crop)
    return x[:, :, top : top + side, left : left + side]
