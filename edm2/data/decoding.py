"""Image decoding: files of any size and mode to RGB."""

import io
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from edm2.data.metadata import orientation, split_metadata
from edm2.params import UserError
from edm2.runtime.limits import MAX_PIXELS, MAX_SCANNED
from edm2.runtime.system_errors import DENIED, is_of_machine

Pixels = NDArray[np.uint8]  # HWC, RGB

IMAGE_ENDINGS = {"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "avif", "qoi", "tga"}
IMAGE_ENDINGS |= {"bmp", "dib", "tif", "tiff", "pbm", "pgm", "ppm", "pnm"}
IMAGE_ENDINGS |= {"jp2", "j2k", "j2c", "jpc", "jpf", "jpx"}
# those that Pillow recognizes by their first bytes; files of other formats that it could open are
# vector graphics, video or data
SIGNED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "JPEG2000", "BMP", "PPM", "QOI")
FORMATS = (*SIGNED_FORMATS, "TIFF", "DIB", "TGA")
TRANSPOSITIONS = {  # by orientation, EXIF 2.3 tag 274
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FEW_BITS = "images use at most 12 of their 16 bits per value and come out nearly black"


class ImageDecodeError(ValueError):
    """A file cannot be decoded as an image; the message says why."""


class DamagedImageError(UserError):
    """An image that is to be read cannot be decoded; the message names it and says why."""


def decode_image(file: Path | BinaryIO) -> Image.Image:
    """The first image in a file in RGB, rotated as its orientation says.

    An alpha channel is dropped, not blended. Of the metadata only the orientation is read. Values of
    16 bits are scaled to 8 bits, by the range of their type.

    Returns:
        the image. Its `info` is empty, or has the key `FEW_BITS` if it is probably not meant to be
        scaled by that range.

    Raises:
        ImageDecodeError: not an image, truncated, too large, or with pixels whose range is not known
            (floating point, 32 bits, signed) or whose colors have no conversion to RGB.
    """
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        return _decode(content)
    except UnidentifiedImageError:
        reason = "not an image of a known format" if content else "empty file, 0 bytes"
        raise ImageDecodeError(reason) from None
    except Exception as error:  # Pillow's decoders raise errors of any kind for damaged files
        if is_of_machine(error, DENIED):
            raise
        raise ImageDecodeError(str(error) or type(error).__name__) from None


def is_image(file: Path) -> bool:
    """Whether the first bytes of a file are those of an image, whatever its name."""
    try:
        with Image.open(file, formats=_available(SIGNED_FORMATS)):
            return True
    except Exception as error:  # as above
        if is_of_machine(error):
            raise
        return False


@cache
def _available(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the installed Pillow has; the import of its plug-ins takes a moment."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _decode(content: bytes) -> Image.Image:
    pixels, turned = split_metadata(content)
    with Image.open(io.BytesIO(pixels), formats=_available(FORMATS)) as file:
        if turned is None and file.format != "TIFF":  # Pillow rotates those itself
            turned = orientation(file.info.get("exif", b""), file.info.get("xmp", b""))
        if isinstance(file, TiffImageFile):
            _check_tiff(file)
        _check_size(file, pixels)
        limit, deep = _largest_value(file), _is_deep(file)
        white_is_zero = isinstance(file, TiffImageFile) and file.tag_v2.get(262) == 0
        file.load()
        few_bits = deep and _uses_few_bits(file)
        image = (_scale(file, limit, white_is_zero) if limit else file).convert("RGB")
    if turned in TRANSPOSITIONS:
        image = image.transpose(TRANSPOSITIONS[turned])
    image.info = {FEW_BITS: True} if few_bits else {}
    return image


def _check_size(image: ImageFile, content: bytes) -> None:
    """Raise ValueError for images that take too long; Pillow's own limit can be switched off."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(f"{pixels} pixels, more than {MAX_PIXELS}; make it smaller")
    scans = content.count(b"\xff\xda") if content.startswith(b"\xff\xd8") else 1
    if scans * pixels > MAX_SCANNED:
        raise ValueError(f"{scans} scans of {pixels} pixels; save it again")


def _check_tiff(image: TiffImageFile) -> None:
    """Raise ValueError for pixels that Pillow would read as others, without an error."""
    if 2 in np.atleast_1d(image.tag_v2.get(339, 1)):
        raise ValueError("signed pixels have no known range; save it with 8 or 16 bits, unsigned")
    separate, deep = image.tag_v2.get(284) == 2, max(image.tag_v2.get(258, (1,))) > 8
    if separate and deep and image.tile and image.tile[0][0] == "raw":
        raise ValueError(
            "its colors are in separate planes of 16 bits; save it with interleaved colors"
        )


def _largest_value(image: ImageFile) -> int | None:
    """The end of the range of an image's values; None if Pillow has them in 8 bits.

    Raises:
        ValueError: values whose range is not known.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return None
    if "I;12" in _raw_mode(image):
        return 4095
    if image.format in ("PNG", "PPM") and image.mode != "F":
        return 65535  # Pillow scales those of PPM, which has a range in its header
    if image.format in ("TIFF", "JPEG2000") and image.mode.startswith("I;16"):
        return 65535
    kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
    raise ValueError(f"{kind} pixels have no known range; save it with 8 or 16 bits")


def _raw_mode(image: ImageFile) -> str:
    """How Pillow unpacks the file's values, such as RGB;16B."""
    return " ".join(str(tile[3]) for tile in image.tile[:1])


def _is_deep(image: ImageFile) -> bool:
    """Whether the file has 16 bits per value, even if Pillow keeps the upper 8."""
    raw = _raw_mode(image)
    if image.format == "JPEG2000":  # Pillow scales those of fewer bits, which the header has
        return image.mode.startswith("I;16")
    return ";16" in raw or (image.format == "PPM" and ", 65535" in raw)


def _uses_few_bits(image: Image.Image) -> bool:
    """Whether the values of an image of 16 bits fit into 12; gray that is all 0 is black."""
    bands = image.split()[:3]  # no alpha
    largest = max(int(np.asarray(band).max()) for band in bands)
    return 0 < largest <= 4095 if image.mode.startswith("I") else largest <= 16


def _scale(image: Image.Image, limit: int, white_is_zero: bool) -> Image.Image:
    """Gray values from 0 to `limit` as 8 bits; Pillow would clip them at 255."""
    levels = np.rint(np.arange(limit + 1) * (255 / limit)).astype(np.uint8)
    return Image.fromarray((levels[::-1] if white_is_zero else levels)[np.asarray(image)])
