"""Metadata of image files: only the orientation is read, the rest is taken out before decoding.

Decoders parse metadata, too, and refuse whole pixels when it is damaged, of a wrong type or too large.
"""

import re
import zlib
from collections.abc import Iterator
from struct import error as StructError
from struct import pack, unpack_from

ORIENTATION = 274  # tag of TIFF and EXIF
INTEGERS = {1: "B", 3: "H", 4: "I"}  # types of TIFF values
XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")
MAX_PROFILE = 2**20  # bytes of EXIF data compressed in a PNG
PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
AVIF_EXIF_ITEM = re.compile(rb"(infe\x02.{7})Exif", re.DOTALL)
# those that decoders of pixels use: layout, compression, colors (TIFF 6.0)
TIFF_PIXELS = {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
TIFF_PIXELS |= {322, 323, 324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}


def split_metadata(content: bytes) -> tuple[bytes, int | None]:
    """A JPEG, PNG, TIFF or AVIF file without metadata, and its orientation.

    Returns:
        the file, unchanged if it has another format; and its orientation from 1 to 8 as EXIF 2.3
        numbers them, None if nothing was taken out. What cannot be parsed counts as 1.
    """
    if content.startswith(b"\xff\xd8"):
        return _split_jpeg(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _split_png(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _split_tiff(content)
    if content[4:12] in (b"ftypavif", b"ftypavis"):
        # its orientation is a property of the container, which Pillow reports
        return AVIF_EXIF_ITEM.sub(rb"\1skip", content), None
    return content, None


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation in EXIF data, else that in XMP, else 1."""
    exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    try:
        values = [_integer(exif, entry) for tag, entry in _tiff_entries(exif) if tag == ORIENTATION]
    except (StructError, KeyError):
        values = []
    match = XMP_ORIENTATION.search(xmp)
    values += [int(match[1])] if match else []
    return next((value for value in values if value is not None and 1 <= value <= 8), 1)


def _split_jpeg(content: bytes) -> tuple[bytes, int]:
    """Without the application segments and comments that do not describe the colors."""
    kept, exif, xmp, position = [content[:2]], b"", b"", 2
    while (position := content.find(b"\xff", position)) >= 0:
        marker, length = content[position + 1 : position + 2], content[position + 2 : position + 4]
        if marker in (b"\xd9", b"\xda") or len(length) < 2:  # the end, or the start of pixels
            kept.append(content[position:])
            break
        if marker == b"\xff" or marker[0] < 0xC0 or 0xD0 <= marker[0] <= 0xD8:  # no segment
            position += 1
            continue
        end = position + 2 + max(2, int.from_bytes(length))
        segment, position = content[position:end], end
        if segment[4:].startswith(b"Exif\0\0"):
            exif += segment[10:]
        elif segment[4:].startswith(b"http://ns.adobe.com/xap/"):
            xmp += segment[4:]
        if not (0xE0 <= marker[0] <= 0xEF or marker == b"\xfe") or _describes_colors(segment):
            kept.append(segment)
    return b"".join(kept), orientation(exif, xmp)


def _describes_colors(segment: bytes) -> bool:
    """Whether a JPEG decoder takes the colors from it: JFIF's APP0, Adobe's APP14."""
    return (segment[1], segment[4:8]) in ((0xE0, b"JFIF"), (0xEE, b"Adob")) and len(segment) >= 16


def _split_png(content: bytes) -> tuple[bytes, int]:
    kept, exif, xmp, position = [content[:8]], b"", b"", 8
    while position + 8 <= len(content) and kept[-1][4:8] != b"IEND":
        length, kind = unpack_from(">I4s", content, position)
        chunk = content[position : position + length + 12]
        data = chunk[8 : length + 8]
        position += len(chunk)
        if kind in PNG_PIXELS:
            kept.append(chunk)
        elif kind == b"eXIf":
            exif = data
        elif data.startswith(b"XML:com.adobe.xmp\0"):
            xmp = data
        elif data.startswith((b"Raw profile type exif\0", b"Raw profile type APP1\0")):
            exif = exif or _raw_profile(kind, data[22:])
    return b"".join(kept), orientation(exif, xmp)


def _raw_profile(kind: bytes, data: bytes) -> bytes:
    """EXIF data as ImageMagick writes it into a text chunk: name, length and hexadecimal digits."""
    try:
        text = zlib.decompressobj().decompress(data[1:], MAX_PROFILE) if kind == b"zTXt" else data
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def _split_tiff(content: bytes) -> tuple[bytes, int | None]:
    try:
        order, start = _tiff_header(content)
        kept = [entry for tag, entry in _tiff_entries(content) if tag in TIFF_PIXELS]
    except (StructError, KeyError):
        return content, None
    # one directory: later pages are not read
    table = pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:start] + table + content[start + len(table) :], orientation(content)


def _tiff_header(data: bytes) -> tuple[str, int]:
    """Byte order, and position of the first directory."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    return order, unpack_from(f"{order}I", data, 4)[0]


def _tiff_entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and 12 bytes of each entry of the first directory."""
    order, start = _tiff_header(data)
    (count,) = unpack_from(f"{order}H", data, start)
    for position in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        yield unpack_from(f"{order}H", data, position)[0], data[position : position + 12]


def _integer(data: bytes, entry: bytes) -> int | None:
    """The value of an entry that is one integer."""
    order, _ = _tiff_header(data)
    kind, count = unpack_from(f"{order}HI", entry, 2)
    if kind not in INTEGERS or count != 1:
        return None
    return int(unpack_from(order + INTEGERS[kind], entry, 8)[0])
