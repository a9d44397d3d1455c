"""From images of any size to squares of one resolution."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from edm2.data.decoding import Pixels
from edm2.params.dataset import Crop


def crop_to_square(image: Image.Image, resolution: int, crop: Crop) -> Pixels:
    """The center of an image as uint8 [R, R, 3]; a square of that size is returned unchanged."""
    return CROPS[crop](image, resolution)


def lanczos_crop(image: Image.Image, resolution: int) -> Pixels:
    """The largest centered square, resized with antialiasing (Lanczos)."""
    square = _center(image, min(image.size))
    return np.array(square.resize((resolution, resolution), Image.Resampling.LANCZOS))


def adm_crop(image: Image.Image, resolution: int) -> Pixels:
    """The crop of ADM (Dhariwal and Nichol 2021), which made the paper's ImageNet.

    The image is halved (box filter) while its shorter side is at least twice the resolution, then
    resized (bicubic) so that this side is the resolution; the centered square is cropped last.
    """
    while min(image.size) >= 2 * resolution:
        half = (image.width // 2, image.height // 2)
        image = image.resize(half, Image.Resampling.BOX)
    scale = resolution / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.array(_center(image.resize(size, Image.Resampling.BICUBIC), resolution))


CROPS: dict[Crop, Callable[[Image.Image, int], Pixels]] = {
    "adm": adm_crop,
    "lanczos": lanczos_crop,
}


def random_crop(image: Image.Image, min_area: float, rng: np.random.Generator) -> Image.Image:
    """A square at a uniformly random position.

    Its area is uniform between `min_area` and 1, as a fraction of the largest square's. The aspect
    ratio is kept, unlike in torchvision's RandomResizedCrop.
    """
    area, x, y = rng.random(3)
    side = max(1, round(min(image.size) * (min_area + (1 - min_area) * area) ** 0.5))
    left, top = int(x * (image.width - side + 1)), int(y * (image.height - side + 1))
    return image.crop((left, top, left + side, top + side))


def _center(image: Image.Image, side: int) -> Image.Image:
    """The centered square of that side."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
