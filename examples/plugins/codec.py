"""A codec: latents are the images at half the size."""

from pathlib import Path

import torch
from torch.nn import functional as F

from edm2.data.images import to_float, to_uint8
from edm2.params.codec import CodecChoice
from edm2.params.seams import CODECS, CodecKind


class Halved:
    downscale, channels = 2, 3
    normalization = None  # mean and std are computed over the dataset

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = F.avg_pool2d(to_float(images), 2)
        return mean, torch.zeros_like(mean)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(F.interpolate(latents, scale_factor=2.0, mode="bilinear"))


def save(choice: CodecChoice, folder: Path, root: Path) -> None:
    """Write nothing: the codec has no weights."""


def load(folder: Path, device: torch.device) -> Halved:
    return Halved()


CODECS.register("halved", CodecKind(load, save, layout=(2, 3)))
