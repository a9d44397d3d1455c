"""Pickles and checkpoints that ask for more time or memory than they are worth."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from hostile_cases import GIB, UNPACKED, case

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


@case("pickle: an integer of 5,000 digits")
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


@case("pickle: a network with a side of 5,000 digits")
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
