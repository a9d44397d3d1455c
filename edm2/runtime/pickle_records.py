"""Pickles read without running anything in them.

Unpickling only creates records: each global that a file may name is replaced by a class that keeps its
arguments, state and items, and calls nothing. Any other global is refused by name. What a file would make
is counted before (`pickle_scan`).
"""

import copyreg
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edm2.runtime.limits import require_file, shown
from edm2.runtime.pickle_scan import scan

DICTS = ("dnnlib.util.EasyDict", "collections.OrderedDict")
RECONSTRUCTOR = "copyreg._reconstructor"  # takes a class, the built-in it extends, and its items
BYTES, SET = "_codecs.encode", "builtins.set"  # in older protocols: of "latin1" text, of a list
DTYPE = "numpy.dtype"
ARRAYS, SCALARS, BUFFERS = (
    tuple(f"numpy.{core}.{name}" for core in ("core", "_core"))
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
)
BASIC = (
    *(RECONSTRUCTOR, *DICTS, BYTES, SET, DTYPE, "numpy.ndarray", *ARRAYS, *SCALARS, *BUFFERS),
    *(f"builtins.{name}" for name in ("object", "dict", "frozenset", "bytes", "bytearray")),
)
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # in protocol 2
NUMBERS = "fiub"  # kinds of data types


class ForbiddenGlobalError(Exception):
    """A file names a global that is not allowed; its text is the name."""


class Record:
    """One object of a file. A file can call only these methods, and cannot change a class."""

    __slots__ = ("args", "items", "state")
    global_name: ClassVar[str]
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Any:
        record = super().__new__(cls)
        record.args, record.items, record.state = args, {}, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


class _Reconstructor(Record):
    """Creates a record of the given class, which is always a record class."""

    __slots__ = ()

    def __new__(cls, record_class: Any, base: Any, items: Any = None) -> Any:
        record = record_class()
        if items is not None and not isinstance(items, dict):
            raise ValueError(f"expected the items of {record.global_name}, found {kind(items)}")
        record.items = dict(items or {})
        return record


def record_classes(*names: str) -> dict[str, type[Record]]:
    """A class for each global that a file may name: these and BASIC."""
    return {name: _record_class(name) for name in (*BASIC, *names)} | {
        RECONSTRUCTOR: _Reconstructor
    }


def _record_class(name: str) -> type[Record]:
    class NamedRecord(Record):
        __slots__ = ()
        global_name = name

    return NamedRecord


class RecordUnpickler(pickle.Unpickler):
    """Reads one object; globals are those of `classes`.

    Raises:
        ForbiddenGlobalError: the file names another global.
    """

    classes: ClassVar[dict[str, type[Record]]] = record_classes()

    def find_class(self, module_name: str, global_name: str) -> type[Record]:
        name = f"{RENAMED.get(module_name, module_name)}.{global_name}"
        if name not in self.classes:
            raise ForbiddenGlobalError(name)
        return self.classes[name]


@contextmanager
def mapped(path: Path) -> Iterator[mmap]:
    """The bytes of a file, which are read when they are used. Raises OSError or ValueError."""
    require_file(path)
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("empty file, 0 bytes")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield data


def read_records(path: Path, unpickler: type[RecordUnpickler] = RecordUnpickler) -> Any:
    """The object in a file. A damaged one may raise any exception."""
    with mapped(path) as data:
        return load_records(data, unpickler)[0]


def load_records(
    data: bytes | mmap, unpickler: type[RecordUnpickler] = RecordUnpickler, start: int = 0
) -> tuple[Any, int]:
    """The object whose pickle begins at `start`, and where it ends. A damaged one may raise any exception."""
    end = scan(data, start)
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    file.seek(start)
    copyreg.clear_extension_cache()  # so that globals by number pass find_class, too
    return unpickler(file).load(), end


def kind(value: Any) -> str:
    """The global that a record stands for, or the type of a plain value."""
    return value.global_name if isinstance(value, Record) else type(value).__name__


def entries(value: Any) -> dict[Any, Any]:
    """Those of a dict or of a class that extends it. Raises ValueError."""
    found = value.items if kind(value) in DICTS else value
    if not isinstance(found, dict):
        raise ValueError(f"expected a dict, found {kind(value)}")
    return found


def as_bytes(value: Any) -> bytes:
    """Bytes, as any protocol writes them. Raises ValueError."""
    if kind(value) == "builtins.bytearray" and value.args:
        value = value.args[0]
    if kind(value) == BYTES:
        return bytes(value.args[0].encode("latin1"))
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"expected bytes, found {kind(value)}")
    return bytes(value)


def array(value: Any) -> NDArray[Any]:
    """A NumPy array or number of numbers, in memory of its own. Raises ValueError."""
    try:
        return _array(value)
    except (TypeError, AttributeError, IndexError, OverflowError, SyntaxError) as error:
        raise ValueError(f"damaged array ({type(error).__name__})") from None


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, int | float):
        return np.asarray(value)
    if kind(value) in SCALARS:
        dtype, data = value.args
        return _from_bytes(as_bytes(data), _dtype(dtype), (), "C")
    if kind(value) in BUFFERS:
        data, dtype, shape, order = value.args
        return _from_bytes(as_bytes(data), _dtype(dtype), shape, order)
    if kind(value) in ARRAYS and value.state is not None:
        _, shape, dtype, by_columns, data = value.state
        return _from_bytes(as_bytes(data), _dtype(dtype), shape, "F" if by_columns else "C")
    raise ValueError(f"expected an array of numbers, found {kind(value)}")


def _dtype(value: Any) -> np.dtype[Any]:
    if kind(value) != DTYPE or not isinstance(value.args[0], str):
        raise ValueError(f"expected a data type, found {kind(value)}")
    dtype = np.dtype(value.args[0])
    if dtype.kind not in NUMBERS:
        raise ValueError(f"expected numbers, found the data type {shown(str(dtype))}")
    return dtype.newbyteorder(value.state[1]) if value.state is not None else dtype


def _from_bytes(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> NDArray[Any]:
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy()
