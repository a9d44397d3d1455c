"""Image files of any size and mode, and square crops of them."""

from pathlib import Path
from struct import error as StructError
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]  # HWC, RGB
WRONG = (OSError, ValueError, SyntaxError, StructError, Image.DecompressionBombError)


class NotAnImage(ValueError):
    """A file that cannot be read as an image, and why."""


def open_picture(file: Path | BinaryIO) -> Image.Image:
    """RGB, upright as its EXIF orientation says; an alpha channel is left out, not blended.

    Raises:
        NotAnImage: not an image, truncated, too large, or of pixels that no 8 bits can hold.
    """
    try:
        with Image.open(file) as image:
            return _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except WRONG as error:
        raise NotAnImage(str(error)) from None


def centre_square(picture: Image.Image) -> Image.Image:
    """The largest square, from the middle."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def random_square(picture: Image.Image, min_area: float, rng: np.random.Generator) -> Image.Image:
    """A square anywhere, of `min_area` to all of the largest square's area (uniform).

    Shapes are kept: unlike many a random resized crop, this one does not stretch.
    """
    area, x, y = rng.random(3)
    side = max(1, round(min(picture.size) * (min_area + (1 - min_area) * area) ** 0.5))
    left, top = int(x * (picture.width - side + 1)), int(y * (picture.height - side + 1))
    return picture.crop((left, top, left + side, top + side))


def resized(square: Image.Image, resolution: int) -> Pixels:
    """uint8 [R, R, 3], antialiased (Lanczos); a square of that size stays as it is."""
    size = (resolution, resolution)
    return np.array(square.resize(size, Image.Resampling.LANCZOS))


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit gray, which Pillow would clip at 255, scaled to 8 bits."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no range that is known")
    if not image.mode.startswith("I"):
        return image
    gray = np.asarray(image).astype(np.int64)
    if gray.min() < 0 or gray.max() > 65535:
        raise ValueError("pixels of more than 16 bits")
    return Image.fromarray(np.rint(gray / 257).astype(np.uint8))
