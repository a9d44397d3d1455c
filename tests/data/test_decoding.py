"""Image files of all kinds."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import FEW_BITS, ImageDecodeError, decode_image, is_image


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


def gray_of(content: bytes) -> list[int]:
    return np.asarray(decode_image(io.BytesIO(content)))[0, :, 0].tolist()


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm", "jpeg2000"])
def test_the_range_of_16_bits_is_known_in_every_format(kind: str) -> None:
    gray = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    assert gray_of(encode(Image.fromarray(gray), kind).getvalue()) == [0, 128, 255]


def tiff(bits: int, photometric: int, sample_format: int, values: bytes) -> bytes:
    """A little-endian TIFF of 2×1 pixels (TIFF 6.0, section 2), for kinds that Pillow does not write."""
    entries = [(256, 2), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 122)]
    entries += [(277, 1), (279, len(values)), (339, sample_format)]
    directory = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + values


@pytest.mark.parametrize(
    ("content", "gray"),
    [
        (tiff(8, 0, 1, bytes([0, 255])), [255, 0]),  # white is zero
        (tiff(12, 1, 1, bytes([0xFF, 0xF8, 0x00])), [255, 128]),  # 4095 and 2048
        (tiff(16, 1, 1, struct.pack("<2H", 65535, 32896)), [255, 128]),
        (tiff(16, 0, 1, struct.pack("<2H", 0, 65535)), [255, 0]),
        (b"P5 2 1 1023\n" + struct.pack(">2H", 1023, 512), [255, 128]),
    ],
)
def test_values_are_scaled_by_the_range_of_their_type(content: bytes, gray: list[int]) -> None:
    image = decode_image(io.BytesIO(content))
    assert np.asarray(image)[0, :, 0].tolist() == gray
    assert not image.info


@pytest.mark.parametrize(
    "content",
    [
        tiff(16, 1, 2, struct.pack("<2h", 5, 32767)),
        tiff(8, 1, 2, struct.pack("<2b", 5, -5)),
        tiff(32, 1, 1, struct.pack("<2I", 5, 65535)),
        encode(Image.new("F", (2, 1), 0.5), "tiff").getvalue(),
        encode(Image.new("F", (2, 1), 0.5), "ppm").getvalue(),
    ],
    ids=["signed", "signed, 8 bits", "32 bits", "float", "pfm"],
)
def test_values_without_a_known_range_are_refused(content: bytes) -> None:
    with pytest.raises(ImageDecodeError, match="range"):
        decode_image(io.BytesIO(content))


@pytest.mark.parametrize("bits", [8, 16])
def test_planes_of_colors_are_right_or_refused(bits: int) -> None:
    """A TIFF of one red pixel, whose planes Pillow takes for 8 bits each."""
    size = bits // 8
    entries = [(256, 3, (1,)), (257, 3, (1,)), (258, 3, (bits,) * 3), (259, 3, (1,))]
    entries += [(262, 3, (2,)), (273, 3, (200, 200 + size, 200 + 2 * size)), (277, 3, (3,))]
    entries += [(279, 3, (size,) * 3), (284, 3, (2,))]
    directory, more = b"", b""
    for tag, kind, values in entries:
        data = struct.pack(f"<{len(values)}H", *values)
        if len(data) > 4:
            data, more = struct.pack("<I", 160 + len(more)), more + data
        directory += struct.pack("<HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory
    content = head.ljust(160, b"\0") + more
    content = content.ljust(200, b"\0") + b"\xff" * size + bytes(2 * size)
    if bits == 8:
        assert decode_image(io.BytesIO(content)).getpixel((0, 0)) == (255, 0, 0)
    else:
        with pytest.raises(ImageDecodeError, match="planes"):
            decode_image(io.BytesIO(content))


def rgb16(largest: int) -> bytes:
    return b"P6 2 1 65535\n" + struct.pack(">6H", 0, largest, 0, largest // 2, 0, 0)


def gray16(*values: int) -> bytes:
    return encode(Image.fromarray(np.array([values], dtype=np.uint16)), "png").getvalue()


def jpeg2000(largest: int) -> bytes:
    gray = Image.fromarray(np.full((8, 8), largest, dtype=np.uint16))
    return encode(gray, "jpeg2000").getvalue()


def png16(color: int, *values: int) -> bytes:
    """A PNG of one pixel with 16 bits per value."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, color, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("content", "marked"),
    [
        (gray16(0, 255), True),
        (gray16(0, 4095), True),
        (gray16(0, 4096), False),
        (gray16(0, 0), False),  # black
        (rgb16(255), True),
        (rgb16(4095), True),
        (rgb16(65535), False),
        (jpeg2000(4095), True),
        (jpeg2000(65535), False),
        (png16(2, 255, 0, 9), True),
        (png16(6, 4095, 0, 9, 65535), True),  # opaque
        (png16(4, 4095, 65535), True),
        (png16(4, 65535, 65535), False),
    ],
)
def test_16_bits_of_which_at_most_12_are_used_are_marked(content: bytes, marked: bool) -> None:
    assert decode_image(io.BytesIO(content)).info == ({FEW_BITS: True} if marked else {})


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


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    content = encode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert decode_image(content).getpixel((0, 0)) == (255, 0, 0)


def test_errors_of_decoders_are_of_one_type_and_name_no_objects() -> None:
    for content in (b"", b"<html>404</html>", encode(coordinates(8, 8), "avif").getvalue()[:-40]):
        with pytest.raises(ImageDecodeError) as error:
            decode_image(io.BytesIO(content))
        assert "object at" not in str(error.value)


def test_images_of_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(coordinates(8, 8), "png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageDecodeError, match="64 pixels"):
        decode_image(content)


def test_images_are_recognized_without_an_ending(tmp_path: Path) -> None:
    for kind in ("jpeg", "png", "gif", "webp", "avif", "jpeg2000", "bmp", "ppm"):
        (tmp_path / kind).write_bytes(encode(coordinates(8, 8), kind).getvalue())
    (tmp_path / "raw").write_bytes(
        encode(coordinates(8, 8), "tiff").getvalue()
    )  # as raw photographs
    (tmp_path / "text").write_text("P5 is how a file of this format starts")
    (tmp_path / "empty").write_bytes(b"")
    found = {path.name for path in tmp_path.iterdir() if is_image(path)}
    assert found == {"jpeg", "png", "gif", "webp", "avif", "jpeg2000", "bmp", "ppm"}


def test_files_that_are_not_whole_images_are_refused() -> None:
    whole = encode(coordinates(64, 64), "jpeg").getvalue()
    for content in (b"", b"<html>404</html>", whole[:100], whole[:-200]):
        with pytest.raises(ImageDecodeError):
            decode_image(io.BytesIO(content))
