"""Image files of all kinds."""

import io

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import ImageDecodeError, decode_image


def encode(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return stream


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose pixels are their own coordinates: red is x, green is y."""
    y, x = np.indices((height, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_all_modes_become_rgb(mode: str, kind: str) -> None:
    white = Image.new("RGB", (6, 4), "white").convert(mode)
    image = decode_image(encode(white, kind))
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.asarray(image).min() == 255


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_all_modes_of_jpeg_become_rgb(mode: str) -> None:
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    pixels = np.asarray(decode_image(encode(white, "jpeg")))
    assert pixels.shape == (8, 8, 3)
    assert pixels.min() >= 254


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    gray = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    image = decode_image(encode(Image.fromarray(gray), "png"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((2, 2), 0.5, dtype=np.float32), "floating-point"),
        (np.full((2, 2), 70_000, dtype=np.int32), "16 bits"),
        (np.full((2, 2), -1, dtype=np.int32), "16 bits"),
    ],
)
def test_pixels_that_do_not_convert_to_8_bits_are_refused(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageDecodeError, match=reason):
        decode_image(encode(Image.fromarray(pixels), "tiff"))


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (3, 0)),
        (3, (3, 1)),
        (4, (0, 1)),
        (5, (0, 0)),
        (6, (0, 1)),
        (7, (3, 1)),
        (8, (3, 0)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, corner: tuple[int, int]) -> None:
    """`corner` is the stored pixel that EXIF 2.3 (tag 274) puts at the top left, for 4×2 pixels."""
    exif = Image.Exif()
    exif[274] = orientation
    image = decode_image(encode(coordinates(4, 2), "png", exif=exif))
    assert image.size == ((4, 2) if orientation < 5 else (2, 4))
    assert image.getpixel((0, 0))[:2] == corner


def test_files_that_are_not_whole_images_are_refused() -> None:
    whole = encode(coordinates(64, 64), "jpeg").getvalue()
    for content in (b"", b"<html>404</html>", whole[:100], whole[:-200]):
        with pytest.raises(ImageDecodeError):
            decode_image(io.BytesIO(content))


def test_invalid_exif_data_is_refused() -> None:
    """A width (tag 0x100) stored as text (type 2): Pillow raises when it rotates the image."""
    exif = Image.Exif()
    exif[274], exif[0x10E] = 6, "some text"
    content = encode(coordinates(8, 8), "jpeg", exif=exif).getvalue()
    assert decode_image(io.BytesIO(content)).size == (8, 8)
    assert content.count(b"\x01\x0e\x00\x02") == 1
    with pytest.raises(ImageDecodeError):
        decode_image(io.BytesIO(content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")))
