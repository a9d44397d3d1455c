"""Safetensors files in pieces: tensors larger than memory are read and written chunk by chunk.

A file is the length of a JSON header in 8 bytes, the header (name → dtype, shape, byte range), and
the values. Plain reads and writes at a position are used, no memory maps, so that memory holds what
is worked on and nothing more.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edm2.params import UserError
from edm2.runtime.manifest import WAY_OUT

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
LONGEST_HEADER = 2**27
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; `begin` is the position of its first byte behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class TensorReader:
    """An open file. `entries` are its tensors by name."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: the file is no safetensors file, or shorter than its header says.
        """
        self.path = path
        self.file = path.open("rb", buffering=0)
        try:
            length = int.from_bytes(self.file.read(8), "little")
            header = json.loads(self.file.read(min(length, LONGEST_HEADER)))
            header.pop("__metadata__", None)
            self.entries = {
                name: Entry(DTYPES[e["dtype"]], tuple(e["shape"]), e["data_offsets"][0])
                for name, e in header.items()
            }
            end = max((e["data_offsets"][1] for e in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.close()
            raise UserError(f"{path}: no safetensors file ({error}). {WAY_OUT}") from None
        self.start = 8 + length
        if path.stat().st_size != self.start + end:
            self.close()
            raise UserError(
                f"{path}: {path.stat().st_size} bytes, expected {self.start + end}: "
                f"truncated. {WAY_OUT}"
            )

    def read(self, name: str, begin: int, buffer: memoryview) -> None:
        """Fill `buffer`, of bytes, with values of tensor `name` from number `begin` on."""
        entry = self.entries[name]
        position = self.start + entry.begin + begin * entry.dtype.itemsize
        while buffer:
            done = os.preadv(self.file.fileno(), [buffer], position)
            if not done:
                raise UserError(f"{self.path}: ends within tensor {name}: truncated. {WAY_OUT}")
            buffer, position = buffer[done:], position + done

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        entry = self.entries[name]
        stored = torch.empty(entry.count * entry.dtype.itemsize, dtype=torch.uint8)
        self.read(name, 0, stored.numpy().data)
        return stored.view(entry.dtype).reshape(entry.shape)

    def close(self) -> None:
        self.file.close()


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
        """Values of tensor `name` from number `begin` on, cast to its dtype."""
        entry = self.entries[name]
        data = values.detach().flatten().to(entry.dtype).contiguous()
        position = self.start + entry.begin + begin * entry.dtype.itemsize
        buffer = data.view(torch.uint8).numpy().data.cast("B")
        while buffer:
            done = os.pwrite(self.file.fileno(), buffer, position)
            buffer, position = buffer[done:], position + done

    def close(self) -> None:
        self.file.close()
