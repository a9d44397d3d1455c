"""From images of any size to squares of one resolution."""

import numpy as np
from PIL import Image

from edm2.data.decoding import Pixels


def center_crop(image: Image.Image) -> Image.Image:
    """The largest centered square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def random_crop(image: Image.Image, min_area: float, rng: np.random.Generator) -> Image.Image:
    """A square at a uniformly random position.

    Its area is uniform between `min_area` and 1, as a fraction of the largest square's. The aspect
    ratio is kept, unlike in torchvision's RandomResizedCrop.
    """
    area, x, y = rng.random(3)
    side = max(1, round(min(image.size) * (min_area + (1 - min_area) * area) ** 0.5))
    left, top = int(x * (image.width - side + 1)), int(y * (image.height - side + 1))
    return image.crop((left, top, left + side, top + side))


def resize(square: Image.Image, resolution: int) -> Pixels:
    """uint8 [R, R, 3], antialiased (Lanczos); a square of that size is returned unchanged."""
    size = (resolution, resolution)
    return np.array(square.resize(size, Image.Resampling.LANCZOS))
