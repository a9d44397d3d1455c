"""Files of `torch.save`, read as records and storages without PyTorch's loader.

Both formats are read: the archives of PyTorch since 1.6, and the files before. Nothing in them is run.
"""

import io
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

import torch

from edm2.runtime.limits import LimitError, shown
from edm2.runtime.pickle_records import RecordUnpickler, kind, load_records, record_classes

TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"  # takes one of TENSORS and its arguments
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
UNTYPED = "torch.storage.UntypedStorage"
DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in (
        ("Double", torch.float64),
        ("Float", torch.float32),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Short", torch.int16),
        ("Char", torch.int8),
        ("Byte", torch.uint8),
        ("Bool", torch.bool),
    )
}
COMPLEX = {
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
NAMED_DTYPES = {str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
TREES = ("collections.OrderedDict", "collections.Counter")
PLAIN = (  # what checkpoints have beside their tensors; records of these are of no use and do nothing
    *("argparse.Namespace", "torch.Size", "torch.device", "torch.Tensor", "builtins.complex"),
    *("torch.nn.parameter.Parameter", "torch.serialization._get_layout"),
    *("torch.per_tensor_affine", "torch.per_channel_affine"),
)
SPARSE = "torch._utils._rebuild_sparse_tensor"
WITHOUT_VALUES = tuple(
    f"torch._utils._rebuild_{name}"
    for name in ("qtensor", "meta_tensor_no_storage", "wrapper_subclass")
)
CLASSES = record_classes(
    *(*TENSORS, WITH_ATTRIBUTES, *PARAMETERS, *DTYPES, *COMPLEX, UNTYPED, *NAMED_DTYPES),
    *(*TREES, *PLAIN, SPARSE, *WITHOUT_VALUES),
)
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files before PyTorch 1.6
ALIGNMENT = 16  # bytes; archives of PyTorch have 64


@dataclass(frozen=True)
class StorageRef:
    """A storage of a file, whose bytes are outside of the pickle; `dtype` None: of its tensors."""

    dtype: torch.dtype | None
    key: str


Storage = tuple[torch.dtype | None, torch.UntypedStorage]


@dataclass
class TorchFile:
    """What `torch.save` wrote: the object, as records, and its storages by key."""

    content: Any
    storages: Mapping[str, torch.UntypedStorage]

    def storage(self, ref: Any) -> Storage:
        """Raises ValueError."""
        if not isinstance(ref, StorageRef):
            raise ValueError(f"expected a storage, found {kind(ref)}")
        if ref.key not in self.storages:
            raise ValueError(f"has no storage {shown(ref.key)}")
        return ref.dtype, self.storages[ref.key]


class _Unpickler(RecordUnpickler):
    classes = CLASSES

    def persistent_load(self, pid: Any) -> StorageRef:
        _, storage, key, *rest = pid
        if len(rest) > 2 and rest[2] is not None:
            raise ValueError("has views of storages, as PyTorch wrote them before 0.4")
        dtype = (DTYPES | COMPLEX).get(getattr(storage, "global_name", ""))
        if dtype is None and getattr(storage, "global_name", "") != UNTYPED:
            raise ValueError("has a storage of an unknown type")
        if not isinstance(key, str):
            raise ValueError(f"has a storage {shown(key)}")
        return StorageRef(dtype, key)


def open_torch(data: bytes | mmap, path: Path | None = None) -> TorchFile:
    """The content of a file of `torch.save`. A damaged one may raise any exception.

    Args:
        path: of the file; an archive is read from there, and its storages are mapped into memory.
    """
    return _archive(data, path) if data[:2] == b"PK" else _sequence(data)


def _archive(data: bytes | mmap, path: Path | None) -> TorchFile:
    with zipfile.ZipFile(io.BytesIO(data) if path is None else path) as archive:
        members = archive.infolist()
        for member in members:
            if (
                member.compress_type != zipfile.ZIP_STORED
                or member.file_size != member.compress_size
            ):
                raise LimitError(
                    f"{shown(member.filename)} is compressed, which torch.save never does"
                )
        if sum(member.file_size for member in members) > len(data):
            raise LimitError("its members are larger than the file")
        folder = members[0].filename.partition("/")[0]
        with suppress(KeyError):
            if archive.read(f"{folder}/byteorder") == b"big":
                raise ValueError("has numbers in big-endian order")
        content, _ = load_records(archive.read(f"{folder}/data.pkl"), _Unpickler)
    prefix = f"{folder}/data/"
    places = {
        member.filename.removeprefix(prefix): _place(data, member)
        for member in members
        if member.filename.startswith(prefix)
    }
    whole: Any = path and torch.UntypedStorage.from_file(str(path), False, len(data))
    return TorchFile(content, {key: _bytes(data, whole, *place) for key, place in places.items()})


def _place(data: bytes | mmap, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a member begin and end."""
    header = data[member.header_offset : member.header_offset + 30]
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    begin = member.header_offset + 30 + lengths
    if len(header) < 30 or begin + member.file_size > len(data):
        raise ValueError(f"truncated: {shown(member.filename)} ends after the file")
    return begin, begin + member.file_size


def _sequence(data: bytes | mmap) -> TorchFile:
    """Pickles of magic number, version, system, object, keys of storages; of each a length and the bytes."""
    refs: dict[str, StorageRef] = {}

    class Unpickler(_Unpickler):
        def persistent_load(self, pid: Any) -> StorageRef:
            ref = super().persistent_load(pid)
            return refs.setdefault(ref.key, ref)

    position, parts = 0, []
    for _ in range(5):
        part, position = load_records(data, Unpickler, position)
        parts.append(part)
    magic, version, _, content, keys = parts
    if (magic, version) != (MAGIC, PROTOCOL) or not isinstance(keys, list):
        raise ValueError("not a file of torch.save")
    storages = {}
    for key in keys:
        dtype = refs[key].dtype or torch.uint8
        begin = position + 8
        position = begin + int.from_bytes(data[position:begin], "little") * dtype.itemsize
        if position > len(data):
            raise ValueError(f"truncated: storage {shown(key)} ends after the file")
        storages[key] = _bytes(data, None, begin, position)
    return TorchFile(content, storages)


def _bytes(
    data: bytes | mmap, whole: torch.UntypedStorage | None, begin: int, end: int
) -> torch.UntypedStorage:
    """A part of the file: of `whole`, which is all of it in memory; without that, or where it would not be
    aligned, a copy.
    """
    if begin == end:
        return torch.UntypedStorage(0)
    if whole is not None and begin % ALIGNMENT == 0:
        part: torch.UntypedStorage = whole[begin:end]
        return part
    return torch.UntypedStorage.from_buffer(memoryview(data)[begin:end], dtype=torch.uint8)
