"""Tensor files, JSON, arrays, pictures and archives that ask for more time or memory than they are worth."""

import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile_cases import UNPACKED, case
from PIL import Image

# --- safetensors, JSON, arrays -------------------------------------------------------------------


def tensor_file(folder: Path, header: bytes, length: int | None = None) -> Callable[[], object]:
    from edm2.ema.tensorfile import TensorReader

    path = folder / "hostile.safetensors"
    path.write_bytes(
        struct.pack("<Q", len(header) if length is None else length) + header + bytes(16)
    )
    return lambda: {name: TensorReader(path).tensor(name) for name in TensorReader(path).entries}


@case("safetensors: a header of 2⁶³ bytes")
def _(folder: Path) -> Callable[[], object]:
    return tensor_file(folder, b"{}", 2**63)


@case("safetensors: a header nested 10⁶ deep")
def _(folder: Path) -> Callable[[], object]:
    return tensor_file(folder, b"[" * 10**6)


@case("safetensors: a negative shape")
def _(folder: Path) -> Callable[[], object]:
    entry = {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}
    return tensor_file(folder, json.dumps({"a": entry}).encode())


@case("JSON: dataset.json nested 10⁶ deep")
def _(folder: Path) -> Callable[[], object]:
    (folder / "dataset.json").write_bytes(b'{"labels":' + b"[" * 10**6)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return labeled(folder)


def labeled(folder: Path) -> Callable[[], object]:
    from edm2.data.sources.labeled_folder import LabeledFolderImages

    return lambda: LabeledFolderImages(folder)


@case("JSON: dataset.json as a named pipe")
def _(folder: Path) -> Callable[[], object]:
    os.mkfifo(folder / "dataset.json")
    return labeled(folder)


@case("JSON: a manifest nested 10⁶ deep")
def _(folder: Path) -> Callable[[], object]:
    from edm2.runtime.checked_json import read_checked

    (folder / "hostile.json").write_bytes(b"[" * 10**6)
    return lambda: read_checked(folder / "hostile.json", "", "")


@case("arrays: statistics of 300 kB that unpack to 256 MiB")
def _(folder: Path) -> Callable[[], object]:
    from edm2.metrics.reference import _read_moments

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (UNPACKED // 8,)}
    )
    with zipfile.ZipFile(folder / "hostile.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("mu", "sigma"):
            file.writestr(f"{name}.npy", header.getvalue() + bytes(UNPACKED))
    return lambda: _read_moments(folder / "hostile.npz")


@case("arrays: statistics of 8 TiB in 1 kB")
def _(folder: Path) -> Callable[[], object]:
    from edm2.metrics.reference import _read_moments

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    )
    with zipfile.ZipFile(folder / "hostile.npz", "w") as file:
        file.writestr("mu.npy", header.getvalue())
    return lambda: _read_moments(folder / "hostile.npz")


# --- pictures ------------------------------------------------------------------------------------


def picture(folder: Path, content: bytes) -> Callable[[], object]:
    """Read as one of a folder, whose errors have its name."""
    from edm2.data.sources.unlabeled import open_unlabeled
    from edm2.data.tally import Tally

    (folder / "hostile.png").write_bytes(content)
    return lambda: open_unlabeled(str(folder), "images", folder).decode(0, Tally())


def png(width: int, height: int, rows: bytes, *chunks: bytes) -> bytes:
    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    parts = [b"IHDR" + head, *chunks, b"IDAT" + rows, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts
    )


@case("picture: PNG of 60,000 × 60,000 pixels")
def _(folder: Path) -> Callable[[], object]:
    packer = zlib.compressobj()
    return picture(folder, png(60_000, 60_000, packer.compress(bytes(2**20)) + packer.flush()))


@case("picture: JPEG of 100 Mpx in 2,000 scans")
def _(folder: Path) -> Callable[[], object]:
    buffer = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(buffer, "jpeg", progressive=True)
    content = buffer.getvalue()
    last = content.rfind(b"\xff\xda")
    scan = content[last : content.rfind(b"\xff\xd9")]
    return picture(folder, content[:last] + scan[:2000] * 2000 + b"\xff\xd9")


@case("picture: EPS, which Ghostscript would run")
def _(folder: Path) -> Callable[[], object]:
    return picture(
        folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n"
    )


# --- tars and zips -------------------------------------------------------------------------------


def tar(folder: Path, content: bytes) -> Callable[[], object]:
    from edm2.data.sources.unlabeled import open_unlabeled

    (folder / "hostile.tar").write_bytes(content + bytes(1024))
    return lambda: open_unlabeled(str(folder / "hostile.tar"), "images", folder / "indices")


def block(name: str, size: int, kind: bytes = b"0", content: bytes = b"") -> bytes:
    """A member whose header has any size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, 0
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    raw[148:156] = b"        "
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw) + content + bytes(-len(content) % 512)


@case("tar: a member of negative size")
def _(folder: Path) -> Callable[[], object]:
    return tar(folder, block("a.png", -1024) * 2)


@case("tar: a header of 8 TiB")
def _(folder: Path) -> Callable[[], object]:
    return tar(folder, block("a.png", 2**43, tarfile.GNUTYPE_LONGNAME))


@case("tar: 10⁵ headers for one member")
def _(folder: Path) -> Callable[[], object]:
    return tar(folder, block("a", 2, tarfile.GNUTYPE_LONGNAME, b"a\0") * 10_000)


@case("tar: 30,000 headers for each of 1,000 members")
def _(folder: Path) -> Callable[[], object]:
    records = b"".join(b"%d k%05d=v\n" % (12, n) for n in range(30_000))
    content = block("g", len(records), tarfile.XGLTYPE, records)
    each = block("x", 6, tarfile.XHDTYPE, b"6 a=b\n") + block("a.png", 0)
    return tar(folder, content + each * 1000)


@case("tar: a name of 10⁵ dots")
def _(folder: Path) -> Callable[[], object]:
    name = "a." * 50_000 + "png\0"
    return tar(
        folder, block("n", len(name), tarfile.GNUTYPE_LONGNAME, name.encode()) + block("a", 0)
    )


@case("tar: a sparse member of 1 TiB")
def _(folder: Path) -> Callable[[], object]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": str(2**40),
            "GNU.sparse.map": f"0,0,{2**40},0",
            "GNU.sparse.name": "a.png",
        }
        file.addfile(info)
    return tar(folder, buffer.getvalue().rstrip(b"\0") + bytes(512))


@case("tar: a named pipe")
def _(folder: Path) -> Callable[[], object]:
    from edm2.data.tar_members import members

    os.mkfifo(folder / "hostile.tar")
    return lambda: list(members(folder / "hostile.tar"))


def packed(folder: Path, members: dict[str, bytes]) -> Callable[[], object]:
    from edm2.data.sources.zip import ZipImages

    with zipfile.ZipFile(folder / "hostile.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return lambda: check(ZipImages(folder / "hostile.zip"))


def check(files: object) -> None:
    from edm2.params import UserError

    if files.problems:
        raise UserError("\n".join(files.problems))
    files.read(0)


@case("zip: a picture of 300 kB that unpacks to 256 MiB")
def _(folder: Path) -> Callable[[], object]:
    return packed(folder, {"a/x.png": bytes(UNPACKED)})


@case("zip: a dataset.json of 300 kB that unpacks to 256 MiB")
def _(folder: Path) -> Callable[[], object]:
    return packed(folder, {"a/x.png": b"x", "dataset.json": b" " * UNPACKED})
