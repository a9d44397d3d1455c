"""Safetensors files read and written in chunks, so that tensors may be larger than memory.

A file is the length of a JSON header in 8 bytes, the header (name → dtype, shape, byte range), and
the values. Values are read and written with plain calls at a position, not with memory maps, so that
memory holds the current chunk and nothing else.
"""

import hashlib
import json
import math
import os
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from edm2.params import UserError
from edm2.runtime.limits import parse_json, require_file, shown
from edm2.runtime.manifest import REBUILD_HINT, compare_sha256, expected_sha256, verified

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 2**27
MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; `begin` is the position of its first byte after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.begin + self.count * self.dtype.itemsize


class TensorReader:
    """An open file: its tensors by name (`entries`), in the order of the file, without gaps; its
    `metadata`, which are text by name; and `header`, the bytes before the first tensor.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            UserError: the file is not a safetensors file, holds a tensor of a dtype that is not
                supported, or is shorter or longer than its header says.
        """
        require_file(path)
        self.path = path
        self.file = path.open("rb", buffering=0)
        try:
            prefix = self.file.read(8)
            length = int.from_bytes(prefix, "little")
            text = self.file.read(min(length, MAX_HEADER_BYTES))
            self.header = prefix + text
            header = parse_json(text)
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.entries = {
                name: Entry(DTYPES[e["dtype"]], _shape(name, e["shape"]), e["data_offsets"][0])
                for name, e in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
            }
            end = 0
            for name, entry in self.entries.items():
                if (entry.begin, entry.end) != (end, header[name]["data_offsets"][1]):
                    raise ValueError(f"tensor {name} does not begin and end where it should")
                end = entry.end
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.close()
            raise UserError(
                f"{path}: cannot be read as a safetensors file ({type(error).__name__}: "
                f"{shown(str(error))}). {REBUILD_HINT}"
            ) from None
        self.start = 8 + length
        if path.stat().st_size != self.start + end:
            self.close()
            raise UserError(
                f"{path}: cannot be read: {path.stat().st_size} bytes, expected "
                f"{self.start + end}: truncated or changed. {REBUILD_HINT}"
            )

    @property
    def kinds(self) -> "dict[str, Kind]":
        """Dtype and shape of each tensor."""
        return {name: (entry.dtype, entry.shape) for name, entry in self.entries.items()}

    def read(self, name: str, begin: int, buffer: memoryview) -> None:
        """Fill `buffer`, of bytes, with values of tensor `name`, starting at value `begin`."""
        entry = self.entries[name]
        position = self.start + entry.begin + begin * entry.dtype.itemsize
        while buffer:
            count = os.preadv(self.file.fileno(), [buffer], position)
            if not count:
                raise UserError(
                    f"{self.path}: ends within tensor {name}: truncated. {REBUILD_HINT}"
                )
            buffer, position = buffer[count:], position + count

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        entry = self.entries[name]
        stored = torch.empty(entry.count * entry.dtype.itemsize, dtype=torch.uint8)
        self.read(name, 0, stored.numpy().data)
        return stored.view(entry.dtype).reshape(entry.shape)

    def close(self) -> None:
        self.file.close()


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, which is read once and compared with its checksum.

    Raises:
        UserError: it cannot be read, or is not the file that the manifest beside it lists.
    """
    expected = expected_sha256(path)
    with closing(TensorReader(path)) as reader:
        tensors, digest = {}, hashlib.sha256(reader.header)
        for name in reader.entries:
            tensors[name] = reader.tensor(name)
            digest.update(as_bytes(tensors[name]))
    if expected is not None:
        compare_sha256(path, digest.hexdigest(), expected)
    return tensors


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


Kind = tuple[torch.dtype, tuple[int, ...]]


def check_same_tensors(
    reader: TensorReader, expected: TensorReader, ignored: Collection[str] = ()
) -> None:
    """Compare the headers of two files.

    Args:
        ignored: names of tensors that may differ.

    Raises:
        UserError: the files differ in the name, dtype or shape of a tensor, or one is corrupted.
    """
    difference = first_difference(reader.kinds, expected.kinds, ignored)
    if difference:
        for file in (reader, expected):
            verified(file.path)
        raise UserError(
            f"{reader.path}: {difference} as in {expected.path.name}. All snapshots of a store are of "
            "one network: remove the others."
        )


def first_difference(
    kinds: Mapping[str, Kind], expected: Mapping[str, Kind], ignored: Collection[str] = ()
) -> str:
    """The first tensor that differs in name, dtype or shape, as part of a message; empty if none."""
    for name in sorted((kinds.keys() | expected.keys()) - set(ignored)):
        kind, right = kinds.get(name), expected.get(name)
        if kind != right:
            return f"tensor {name}: {_describe(kind)}, expected {_describe(right)}"
    return ""


def _describe(kind: Kind | None) -> str:
    return "missing" if kind is None else f"{kind[0]} of shape {list(kind[1])}"


def _shape(name: str, shape: list[int]) -> tuple[int, ...]:
    """Raises ValueError for a shape that no tensor has."""
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise ValueError(f"tensor {shown(name)} has the shape {shown(shape)}")
    return tuple(shape)


class TensorWriter:
    """A new file of the given tensors, whose values are written in any order."""

    def __init__(
        self, path: Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    ) -> None:
        header, position = {}, 0
        self.entries = {}
        order = sorted(tensors, key=lambda n: (-tensors[n][0].itemsize, n))  # keeps values aligned
        for name in order:
            dtype, shape = tensors[name]
            self.entries[name] = Entry(dtype, shape, position)
            end = position + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [position, end],
            }
            position = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.file = path.open("wb", buffering=0)
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.start = 8 + len(text)
        self.file.truncate(self.start + position)

    def write(self, name: str, begin: int, values: torch.Tensor) -> None:
        """Write values of tensor `name`, starting at value `begin`, cast to the tensor's dtype."""
        entry = self.entries[name]
        data = values.detach().flatten().to(entry.dtype).contiguous()
        position = self.start + entry.begin + begin * entry.dtype.itemsize
        buffer = as_bytes(data)
        while buffer:
            count = os.pwrite(self.file.fileno(), buffer, position)
            buffer, position = buffer[count:], position + count

    def close(self) -> None:
        self.file.close()
