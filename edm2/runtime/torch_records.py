"""Tensors in files of `torch.save`, read without PyTorch's loader and without running anything in them.

Both formats are read: the archives of PyTorch since 1.6, and the files before. A tensor is checked against
the bytes that its file has for it, which PyTorch does not do: a file may say that one byte is a terabyte.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from mmap import mmap
from pathlib import Path
from typing import Any

import torch

from edm2.runtime.limits import (
    FREE_BYTES,
    MAX_NESTING,
    TENSOR_FACTOR,
    Budget,
    LimitError,
    shown,
)
from edm2.runtime.pickle_records import (
    Record,
    RecordUnpickler,
    kind,
    load_records,
    mapped,
    record_classes,
)

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
MAX_DIMENSIONS = 64
MAX_SIZE = 2**62
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


def read_torch(path: Path) -> Any:
    """The object in a file of `torch.save`: dicts, lists, tuples, values and tensors on the CPU.

    Tensors are memory maps, read when they are used, unless the file is older than PyTorch 1.6. Objects of
    other classes are records. A damaged file may raise any exception.
    """
    with mapped(path) as data:
        file = open_torch(data, path)
        return _Tree(TensorReader(len(data), file.storage)).value(file.content)


class TensorReader:
    """Makes tensors of records."""

    def __init__(self, file_bytes: int, storage_of: Callable[[Any], Storage]) -> None:
        """
        Args:
            file_bytes: size of the file. All tensors together are no larger than some times that.
            storage_of: returns dtype and bytes of a storage from its record.
        """
        self.storage_of = storage_of
        self.bytes = Budget(TENSOR_FACTOR * file_bytes + FREE_BYTES, "bytes of tensors")

    def tensor(self, value: Any) -> torch.Tensor:
        """
        Raises:
            ValueError: it is no tensor, or has values that are not in its storage.
        """
        for _ in range(MAX_NESTING):
            if kind(value) not in PARAMETERS:
                break
            value = value.args[0]
        name, args = kind(value), value.args if isinstance(value, Record) else ()
        if name == WITH_ATTRIBUTES:
            name, args = getattr(args[0], "global_name", ""), args[2]
        if name not in TENSORS:
            raise ValueError(f"expected a tensor, found {kind(value)}")
        dtype, storage = self.storage_of(args[0])
        if name == TENSORS[1]:
            dtype = NAMED_DTYPES[args[6].global_name]
        if dtype is None:
            raise ValueError("a tensor of no dtype")
        offset, size, stride = args[1:4]
        return self._view(storage, dtype, offset, tuple(_args(size)), tuple(_args(stride)))

    def _view(
        self,
        storage: torch.UntypedStorage,
        dtype: torch.dtype,
        offset: Any,
        size: tuple[Any, ...],
        stride: tuple[Any, ...],
    ) -> torch.Tensor:
        numbers = (offset, *size, *stride)
        if not all(isinstance(n, int) and 0 <= n < MAX_SIZE for n in numbers):
            raise ValueError(
                f"a tensor of shape {shown(size)}, offset {shown(offset)}, stride {shown(stride)}"
            )
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(size)} dimensions and {len(stride)} strides")
        count = prod(size)
        end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if count and end * dtype.itemsize > storage.nbytes():
            raise ValueError(f"a tensor of shape {shown(size)} exceeds its storage")
        if count * dtype.itemsize > max(storage.nbytes(), FREE_BYTES):
            raise LimitError(
                f"a tensor of shape {shown(size)} has {count} values in a storage of {storage.nbytes()} bytes"
            )
        self.bytes.spend(count * dtype.itemsize)
        return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)


class _Tree:
    """A tree of records as one of values; what occurs twice is made once."""

    def __init__(self, reader: TensorReader) -> None:
        self.reader = reader
        self.made: dict[int, tuple[Any, Any]] = {}  # by id; records are kept, as ids are used again

    def value(self, record: Any, depth: int = 0) -> Any:
        if depth > MAX_NESTING:
            raise LimitError(f"nested in more than {MAX_NESTING} levels")
        if id(record) not in self.made:
            self.made[id(record)] = record, self._make(record, depth + 1)
        return self.made[id(record)][1]

    def _make(self, record: Any, depth: int) -> Any:
        name = kind(record)
        if name in (*TENSORS, WITH_ATTRIBUTES, *PARAMETERS):
            return self.reader.tensor(record)
        if (
            name == SPARSE or name in WITHOUT_VALUES
        ):  # cannot be used, and are named by who needs them
            empty = torch.empty(0, device="meta")
            return torch.zeros(0).to_sparse() if name == SPARSE else empty
        if isinstance(record, dict) or name in TREES:
            return {key: self.value(value, depth) for key, value in _items(record)}
        if isinstance(record, list | tuple):
            return type(record)([self.value(value, depth) for value in record])
        return record


def _items(record: Any) -> Iterable[tuple[Any, Any]]:
    """Those of a dict, or of a record of one, which may have them as an argument."""
    if isinstance(record, dict):
        return record.items()
    given = record.args[0] if record.args and not record.items else record.items
    pairs = list(given.items() if isinstance(given, dict) else given)
    if not all(isinstance(key, str | int) for key, _ in pairs):
        raise ValueError("has keys that are neither text nor numbers")
    return pairs


def _args(size: Any) -> Any:
    """A tuple of numbers, or torch.Size of one."""
    return size.args[0] if kind(size) == "torch.Size" else size


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
