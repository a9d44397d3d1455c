"""Published networks: the tensors in a pickle of EDM2's authors, read without running its code.

Such a pickle holds, under `ema`, a network that unpickling would rebuild by running Python source
from the file. Here, unpickling only creates records (`edm2.runtime.pickle_records`), from which parameters
and buffers are collected. Their storages are pickles themselves, and are read in the same way.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edm2.params import UserError
from edm2.runtime.pickle_records import (
    SET,
    ForbiddenGlobalError,
    RecordUnpickler,
    array,
    as_bytes,
    entries,
    kind,
    read_records,
    record_classes,
)

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
STORAGE, TENSOR = "torch.storage._load_from_bytes", "torch._utils._rebuild_tensor_v2"
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
MODULES = tuple(
    f"torch.nn.modules.{name}"
    for name in (
        "module.Module",
        "container.ModuleDict",
        "container.ModuleList",
        "container.Sequential",
        "linear.Identity",
        "linear.Linear",
        "conv.Conv2d",
        "dropout.Dropout",
        "activation.SiLU",
        "normalization.GroupNorm",
    )
)
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
CLASSES = record_classes(
    *(PERSISTENT, STORAGE, TENSOR, *PARAMETERS, *MODULES, *DTYPES),
    *("torch.Size", "torch.device", *map(str, DTYPES.values())),  # values beside the tensors
)


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        tensors: by name, as in its state_dict.
        arguments: its keyword arguments that are plain values: text, numbers, booleans, None, and
            lists, tuples and dicts of them.
        other_arguments: the names of the others.
        encoder: the record of the codec that its latents are of, for `read_encoder`; None: the file has
            none.
    """

    class_name: str
    tensors: dict[str, torch.Tensor]
    arguments: dict[str, Any]
    other_arguments: tuple[str, ...]
    encoder: Any


@dataclass(frozen=True)
class PublishedEncoder:
    """The codec of a published network.

    Attributes:
        values: its keyword arguments and attributes, those that are numbers, arrays or plain values.
    """

    class_name: str
    values: dict[str, Any]


class _Unpickler(RecordUnpickler):
    classes = CLASSES


class _StorageUnpickler(_Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        """The description of a storage; its bytes are outside of the pickle."""
        return pid


def read_published(path: Path) -> Published:
    """Read the network of a published pickle; tensors keep their dtype.

    Raises:
        UserError: the file does not exist, is not a pickle, is truncated, names a global that is not
            allowed, or holds no network.
    """
    try:
        contents = entries(read_records(path, _Unpickler))
        network = contents.get("ema") or contents.get("net")
        published = _published(network, contents.get("encoder")) if network else None
    except ForbiddenGlobalError as name:
        raise UserError(
            f"{path}: refused: it names {name}, which is not needed to store a network. Nothing in "
            "the file was run. Use a file that EDM2's authors published."
        ) from None
    except Exception as error:  # a damaged pickle may raise any exception
        raise UserError(
            f"{path}: cannot be read as a network pickle ({type(error).__name__}: {error}). "
            "Use one of EDM2's, and download it completely."
        ) from None
    if published is None:
        raise UserError(
            f"{path}: holds no network: expected an entry ema, found {sorted(map(str, contents))}. "
            "Use a network pickle of EDM2's authors."
        )
    return published


def read_encoder(record: Any, path: Path) -> PublishedEncoder:
    """The codec in a published pickle, from its record.

    Args:
        path: of the file, for errors.

    Raises:
        UserError: it is no object of a class.
    """
    try:
        class_name, state = _module(record)
        given = entries(state.get("_init_kwargs") or {})
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: the entry encoder cannot be read ({error}). Use a network pickle of EDM2's authors."
        ) from None
    values = {}
    for name, value in {**given, **state}.items():
        with suppress(ValueError):
            values[str(name)] = _number_or_plain(value)
    return PublishedEncoder(class_name, values)


def _published(network: Any, encoder: Any) -> Published:
    class_name, state = _module(network)
    arguments, others = {}, []
    for name, value in entries(state.get("_init_kwargs") or {}).items():
        try:
            arguments[name] = _plain_value(value)
        except ValueError:
            others.append(str(name))
    return Published(class_name, dict(_tensors(network)), arguments, tuple(others), encoder)


def _module(value: Any) -> tuple[str, dict[str, Any]]:
    """Class name and state of a module, whether persistent or plain."""
    if kind(value) == PERSISTENT:
        meta = entries(value.args[0])
        return meta["class_name"], entries(meta["state"])
    if kind(value) in MODULES:
        return kind(value).rpartition(".")[2], entries(value.state)
    raise ValueError(f"expected a module, found {kind(value)}")


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by name, as in a state_dict."""
    _, state = _module(module)
    non_persistent = state.get("_non_persistent_buffers_set", ())
    non_persistent = non_persistent.args[0] if kind(non_persistent) == SET else non_persistent
    for name, tensor in (entries(state["_parameters"]) | entries(state["_buffers"])).items():
        if tensor is not None and name not in non_persistent:
            yield prefix + name, _tensor(tensor)
    for name, child in entries(state["_modules"]).items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def _tensor(value: Any) -> torch.Tensor:
    while kind(value) in PARAMETERS:
        value = value.args[0]
    if kind(value) != TENSOR or kind(value.args[0]) != STORAGE:
        raise ValueError(f"expected a tensor, found {kind(value)}")
    storage, offset, size, stride, *_ = value.args
    dtype, data = _storage(storage.args[0])
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if min((offset, *size, *stride)) < 0 or (all(size) and end * dtype.itemsize > len(data)):
        raise ValueError(f"a tensor of shape {size} exceeds its storage")
    untyped = torch.UntypedStorage.from_buffer(data, dtype=torch.uint8)
    return torch.empty(0, dtype=dtype).set_(untyped, offset, size, stride)


def _storage(saved: Any) -> tuple[torch.dtype, bytes]:
    """A storage's dtype and bytes, in either format of torch.save."""
    file = io.BytesIO(as_bytes(saved))
    if file.getvalue().startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:
            folder = archive.namelist()[0].partition("/")[0]
            _, storage, key, *_ = _StorageUnpickler(archive.open(f"{folder}/data.pkl")).load()
            return DTYPES[storage.global_name], archive.read(f"{folder}/data/{key}")
    # pickles of a magic number, a version, the system, the storage, its key; a length; the bytes
    *_, (_, storage, *_), _ = [_StorageUnpickler(file).load() for _ in range(5)]
    return DTYPES[storage.global_name], file.read()[8:]


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return type(value)(map(_plain_value, value))
    return {_plain_value(name): _plain_value(entry) for name, entry in entries(value).items()}


def _number_or_plain(value: Any) -> Any:
    try:
        return _plain_value(value)
    except ValueError:
        return array(value)
