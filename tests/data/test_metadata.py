"""Metadata: the orientation is read where it can be parsed, and nothing else decides about pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import decode_image
from edm2.data.metadata import orientation, split_metadata

SIZE = (16, 8)
PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8))
OPTIONS = {"webp": {"lossless": True}, "jpeg": {"quality": 95}}


def encode(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PIXELS.save(stream, kind, **OPTIONS.get(kind, {}), **options)
    return stream.getvalue()


def decode(content: bytes) -> Image.Image:
    return decode_image(io.BytesIO(content))


def entry(tag: int, kind: int, value: bytes) -> bytes:
    """One entry of an EXIF directory, with a value of up to four bytes (TIFF 6.0, section 2)."""
    return struct.pack(">HHI", tag, kind, 1) + value.ljust(4, b"\0")


def exif_of(*entries: bytes) -> bytes:
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries) + bytes(4)


TURNED = entry(274, 3, struct.pack(">H", 6))


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "tiff"])
def test_orientation_is_read_in_every_format(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    whole, turned = decode(encode(kind)), decode(encode(kind, exif=exif))
    assert (whole.size, turned.size) == (SIZE, SIZE[::-1])
    np.testing.assert_array_equal(whole.transpose(Image.Transpose.ROTATE_270), turned)


@pytest.mark.parametrize(
    "other",
    [
        entry(0x8298, 5, struct.pack(">I", 8)),  # Copyright as a rational
        entry(0x213, 2, b"a"),  # YCbCrPositioning as text
        entry(0x100, 2, b"a"),
        entry(0x11A, 5, struct.pack(">I", 10**9)),  # behind the end
        entry(0x9999, 99, b""),
    ],
)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_other_entries_do_not_matter(kind: str, other: bytes) -> None:
    assert decode(encode(kind, exif=b"Exif\0\0" + exif_of(other, TURNED))).size == SIZE[::-1]


@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"",
        b"MM\0*",
        b"MM\0*\xff\xff\xff\xff",
        exif_of(TURNED)[:15],
        exif_of(entry(274, 2, b"6")),
        exif_of(entry(274, 3, struct.pack(">H", 9))),
        exif_of(entry(274, 5, struct.pack(">I", 10**9))),
    ],
)
def test_an_orientation_that_cannot_be_parsed_is_ignored(exif: bytes) -> None:
    assert orientation(exif) == 1
    for kind in ("jpeg", "png"):
        assert decode(encode(kind, exif=b"Exif\0\0" + exif)).size == SIZE


def test_random_mutations_of_exif_data_never_refuse_pixels() -> None:
    """Decoders that parse all of it refuse about three in a hundred."""
    exif = Image.Exif()
    exif.update({274: 6, 0x10E: "description", 0x11A: 72.0, 0x11B: 72.0, 0x128: 2, 0x213: 1})
    data = exif.tobytes()
    content = encode("jpeg", exif=data)
    first, rng = content.index(data), np.random.default_rng(0)
    whole = decode(encode("jpeg"))
    turned = {np.asarray(whole.transpose(method)).tobytes() for method in Image.Transpose}
    for _ in range(300):
        mutated = bytearray(content)
        for position in rng.integers(0, len(data), rng.integers(1, 9)):
            mutated[first + position] = rng.integers(256)
        assert np.asarray(decode(bytes(mutated))).tobytes() in {
            np.asarray(whole).tobytes(),
            *turned,
        }


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunk(added: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    content = encode("png")
    return content[:33] + added + content[33:]


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"tEXt", b"a\0b", checksum=1),
        chunk(b"eXIf", b"garbage"),
        chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2**21))),  # more than Pillow takes
        chunk(b"zTXt", b"name\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"zTXt", b"Raw profile type exif\0\0not compressed"),
        chunk(b"iCCP", b""),
        chunk(b"gAMA", b"\0"),
        chunk(b"pHYs", b""),
        chunk(b"acTL", b"\0"),
    ],
)
def test_chunks_of_metadata_do_not_matter(added: bytes) -> None:
    np.testing.assert_array_equal(decode(with_chunk(added)), PIXELS)


def test_orientation_in_other_places_of_a_png() -> None:
    digits = exif_of(TURNED).hex().encode()
    profile = b"\nexif\n%8d\n%s\n" % (len(digits) // 2, digits)
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation='6'/>"
    for added in (
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        chunk(b"iTXt", xmp),
    ):
        assert decode(with_chunk(added)).size == SIZE[::-1]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


@pytest.mark.parametrize(
    "added",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0garbage"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"a comment"),
    ],
)
def test_segments_of_metadata_do_not_matter(added: bytes) -> None:
    content = encode("jpeg")
    np.testing.assert_array_equal(decode(content[:2] + added + content[2:]), decode(content))


def test_colors_of_a_jpeg_stay_described() -> None:
    """Adobe's segment says here that the values are RGB; without it decoders take them for YCbCr."""
    content = encode("jpeg")
    (length,) = struct.unpack_from(">H", content, 4)  # of the first segment, JFIF's
    adobe = segment(0xEE, b"Adobe" + struct.pack(">3HB", 100, 0, 0, 0))
    content = content[:2] + adobe + content[4 + length :]
    expected = np.asarray(Image.open(io.BytesIO(content)))
    assert (expected != np.asarray(decode(encode("jpeg")))).any()
    np.testing.assert_array_equal(decode(content), expected)


def test_metadata_of_a_tiff_do_not_matter() -> None:
    exif = Image.Exif()
    exif.update({274: 6, 0x11A: 72.0, 0x8298: "somebody"})
    content = encode("tiff", exif=exif)
    assert decode(content).size == SIZE[::-1]
    for tag in (0x11A, 0x8298):  # of an unknown type
        assert content.count(struct.pack("<H", tag)) == 1
        position = content.index(struct.pack("<H", tag)) + 2
        content = content[:position] + b"\x63\0" + content[position + 2 :]
    np.testing.assert_array_equal(decode(content), PIXELS.transpose(Image.Transpose.ROTATE_270))


def test_other_files_are_unchanged() -> None:
    for content in (encode("bmp"), encode("gif"), b"", b"II*\0", b"MM\0*\0\0\0\xff"):
        assert split_metadata(content) == (content, None)
