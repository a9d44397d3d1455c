"""Image decoding: files of any size and mode to RGB."""

from pathlib import Path
from struct import error as StructError
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]  # HWC, RGB

# what Pillow raises for files that it cannot decode
DECODE_ERRORS = (OSError, ValueError, SyntaxError, StructError, Image.DecompressionBombError)


class ImageDecodeError(ValueError):
    """A file cannot be decoded as an image; the message says why."""


def decode_image(file: Path | BinaryIO) -> Image.Image:
    """The image in RGB, rotated as its EXIF orientation says; an alpha channel is dropped, not blended.

    Raises:
        ImageDecodeError: not an image, truncated, too large, or with pixels that do not convert to
            8 bits (floating point, or integers of more than 16 bits).
    """
    try:
        with Image.open(file) as image:
            return _to_8_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except DECODE_ERRORS as error:
        raise ImageDecodeError(str(error)) from None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grayscale to 8 bits; Pillow would clip it at 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    gray = np.asarray(image).astype(np.int64)
    if gray.min() < 0 or gray.max() > 65535:
        raise ValueError("pixel values outside of 16 bits")
    return Image.fromarray(np.rint(gray / 257).astype(np.uint8))
