"""Files that ask for more time or memory than they are worth, and what reads them.

Each case makes its file in a folder and returns a function that reads it as the product does. No case needs
more than a few megabytes on disk.
"""

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
import torch
from PIL import Image

Case = Callable[[Path], Callable[[], object]]
GIB = 2**30
UNPACKED = 2**28  # bytes of zeros, which compress to a thousandth
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def add(make: Case) -> Case:
        CASES[name] = make
        return make

    return add


# --- pickles -------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def published(folder: Path, opcodes: bytes, entry: str = "ema") -> Callable[[], object]:
    """A pickle of a dict with one entry that these opcodes make."""
    from edm2.pipeline.published_network import read_published_network

    path = folder / "hostile.pkl"
    path.write_bytes(b"\x80\x04}" + text(entry) + opcodes + b"s.")
    return lambda: read_published_network(path)


def module(parameters: bytes = b"}", children: bytes = b"}") -> bytes:
    state = b"}(" + text("_parameters") + parameters + text("_buffers") + b"}"
    state += text("_modules") + children + b"u"
    return named("torch.nn.modules.module", "Module") + b")\x81" + state + b"b"


def tensor(storage: bytes, size: bytes, stride: bytes) -> bytes:
    load = named("torch.storage", "_load_from_bytes")
    load += b"B" + struct.pack("<I", len(storage)) + storage + b"\x85R"
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    return rebuild + b"(" + load + b"K\x00" + size + stride + b"\x89}tR"


def saved_storage() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.zeros(4).untyped_storage(), buffer)
    torch_file = io.BytesIO()
    torch.save(torch.zeros(4)._typed_storage(), torch_file)
    return torch_file.getvalue()


def compressed(content: bytes) -> bytes:
    """An archive, with its members compressed."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            data = old.read(member)
            if "/data/" in member.filename:
                data = bytes(UNPACKED)
            new.writestr(member.filename, data)
    return buffer.getvalue()


@case("pickle: modules shared exponentially")
def _(folder: Path) -> Callable[[], object]:
    opcodes = module() + b"\x94"  # number 0 of the memo; each has the one before twice
    for number in range(40):
        child = b"h" + bytes([number])
        both = b"}(" + text("a") + child + text("b") + child + b"u"
        opcodes += b"0" + module(children=both) + b"\x94"
    return published(folder, opcodes)


@case("pickle: a module that contains itself")
def _(folder: Path) -> Callable[[], object]:
    state = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}"
    state += text("_modules") + b"}" + text("a") + b"h\x00su"
    opcodes = named("torch.nn.modules.module", "Module") + b")\x81\x94" + state + b"b"
    return published(folder, opcodes)


@case("pickle: tuples 10⁶ deep")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"N" + b"\x85" * 10**6)


@case("pickle: tuples 10⁶ deep as a key")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"}N" + b"\x85" * 10**6 + b"Ns")


@case("pickle: a key hashed 2⁴⁰ times")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"}N" + b"2\x86" * 40 + b"Ns")


@case("pickle: lists in lists, 2⁴⁰ values")
def _(folder: Path) -> Callable[[], object]:
    doubled = b"]\x94"
    for number in range(40):
        doubled += b"0](" + (b"h" + bytes([number])) * 2 + b"e\x94"
    state = b"}(" + text("_init_kwargs") + b"}" + text("x") + doubled + b"s"
    state += text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}u"
    return published(folder, named("torch.nn.modules.module", "Module") + b")\x81" + state + b"b")


@case("pickle: an integer of 5 000 digits")
def _(folder: Path) -> Callable[[], object]:
    number = b"\x8b" + struct.pack("<I", 2100) + bytes(2099) + b"\x01"
    return published(folder, number, "x")


@case("pickle: a text of 16 GiB in 9 bytes")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"\x8d" + struct.pack("<Q", 16 * GIB))


@case("pickle: an array of 16 GiB in 9 bytes")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"\x96" + struct.pack("<Q", 16 * GIB))


@case("pickle: a memo of 16 GiB in 5 bytes")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"Nr" + struct.pack("<I", 2**30))


@case("pickle: a frame of 16 GiB")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"\x95" + struct.pack("<Q", 16 * GIB) + b"N")


@case("pickle: 10⁷ sets in 10 MB")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"](" + b"\x8f" * 10**7 + b"e")


@case("pickle: a storage that unpacks to 256 MiB")
def _(folder: Path) -> Callable[[], object]:
    storage = compressed(saved_storage())
    return published(
        folder, module(b"}" + text("x") + tensor(storage, b"K\x04\x85", b"K\x01\x85") + b"s")
    )


@case("pickle: a tensor of 2⁴⁰ values in 16 bytes")
def _(folder: Path) -> Callable[[], object]:
    size = b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85"
    return published(
        folder, module(b"}" + text("x") + tensor(saved_storage(), size, b"K\x00\x85") + b"s")
    )


@case("pickle: a name of 10 MB with control characters")
def _(folder: Path) -> Callable[[], object]:
    return published(folder, b"cos\n" + b"\x1b[2J" * 2_500_000 + b"\n")


@case("pickle: a network with a side of 5 000 digits")
def _(folder: Path) -> Callable[[], object]:
    side = "9" * 5000
    parameters = b"}("
    for name in (f"enc.{side}x{side}_block0.conv_res0.weight", "out_conv.weight"):
        parameters += text(name) + tensor(saved_storage(), b")", b")")
    unet = b"}" + text("unet") + module(parameters + b"u") + b"s"
    return published(folder, module(children=unet))


@case("pickle: a named pipe")
def _(folder: Path) -> Callable[[], object]:
    from edm2.pipeline.published_network import read_published_network

    os.mkfifo(folder / "hostile.pkl")
    return lambda: read_published_network(folder / "hostile.pkl")


# --- checkpoints ---------------------------------------------------------------------------------


def checkpoint(folder: Path, content: bytes) -> Callable[[], object]:
    from edm2.ema.checkpoints import read_checkpoint

    path = folder / "hostile.pt"
    path.write_bytes(content)
    return lambda: {name: t.sum() for name, t in read_checkpoint(path).items()}


def archive(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/data/0", bytes(16))
        file.writestr("x/version", "3\n")
    return buffer.getvalue()


@case("checkpoint: an archive of 300 kB that unpacks to 256 MiB")
def _(folder: Path) -> Callable[[], object]:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, buffer)
    return checkpoint(folder, compressed(buffer.getvalue()))


@case("checkpoint: a tensor of 2⁴⁰ values in 16 bytes")
def _(folder: Path) -> Callable[[], object]:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1).expand(2**40)}, buffer)
    return checkpoint(folder, buffer.getvalue())


@case("checkpoint: a call that allocates 16 GiB")
def _(folder: Path) -> Callable[[], object]:
    count = b"\x8a\x05" + (2**32).to_bytes(5, "little")
    pickled = b"\x80\x02}" + text("a") + b"ctorch\nFloatTensor\n" + count + b"\x85Rs."
    return checkpoint(folder, archive(pickled))


@case("checkpoint: a storage larger than its bytes")
def _(folder: Path) -> Callable[[], object]:
    count = b"\x8a\x04" + (2**28).to_bytes(4, "little")
    pid = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + count + b"tQ"
    )
    rebuild = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\x00" + count + b"\x85K\x01\x85\x89"
    )
    rebuild += b"ccollections\nOrderedDict\n)RtR"
    return checkpoint(folder, archive(b"\x80\x02}" + text("a") + rebuild + b"s."))


@case("checkpoint: dicts shared exponentially")
def _(folder: Path) -> Callable[[], object]:
    opcodes = b"}q\x00"
    for n in range(40):
        both = b"(" + text("a") + b"h" + bytes([n]) + text("b") + b"h" + bytes([n]) + b"u"
        opcodes += b"}" + both + b"q" + bytes([n + 1])
    return checkpoint(folder, archive(b"\x80\x02" + opcodes + b"."))


@case("checkpoint: a named pipe")
def _(folder: Path) -> Callable[[], object]:
    from edm2.ema.checkpoints import read_checkpoint

    os.mkfifo(folder / "hostile.pt")
    return lambda: read_checkpoint(folder / "hostile.pt")


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


@case("picture: PNG of 60 000 × 60 000 pixels")
def _(folder: Path) -> Callable[[], object]:
    packer = zlib.compressobj()
    return picture(folder, png(60_000, 60_000, packer.compress(bytes(2**20)) + packer.flush()))


@case("picture: JPEG of 100 Mpx in 2 000 scans")
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


@case("tar: 30 000 headers for each of 1 000 members")
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
