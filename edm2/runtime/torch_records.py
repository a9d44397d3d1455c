"""Tensors in files of `torch.save`, made of their records.

A tensor is checked against the bytes that its file has for it, which PyTorch does not do: a file may say
that one byte is a terabyte.
"""

from collections.abc import Callable, Iterable
from math import prod
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
from edm2.runtime.pickle_records import Record, kind, mapped
from edm2.runtime.torch_files import (
    NAMED_DTYPES,
    PARAMETERS,
    SPARSE,
    TENSORS,
    TREES,
    WITH_ATTRIBUTES,
    WITHOUT_VALUES,
    Storage,
    open_torch,
)

MAX_DIMENSIONS = 64
MAX_SIZE = 2**62


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
        # tensors that cannot be used: errors of those who need them name them
        if name == SPARSE:
            return torch.zeros(0).to_sparse()
        if name in WITHOUT_VALUES:
            return torch.empty(0, device="meta")
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
