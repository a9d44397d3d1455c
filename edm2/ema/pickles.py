"""Published networks: the tensors in a pickle of EDM2's authors, read without running its code.

Such a pickle holds, under `ema`, a network that unpickling would rebuild by running Python source
from the file. Here, unpickling only creates records (`edm2.runtime.pickle_records`), from which parameters
and buffers are collected. Their storages are pickles themselves, and are read in the same way.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edm2.params import UserError
from edm2.runtime.limits import MAX_NESTING, MAX_OBJECTS, Budget, LimitError, shown
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
from edm2.runtime.torch_files import DTYPES, PARAMETERS, TENSORS, Storage, open_torch
from edm2.runtime.torch_records import TensorReader

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
STORAGE = "torch.storage._load_from_bytes"
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
CLASSES = record_classes(
    *(PERSISTENT, STORAGE, TENSORS[0], *PARAMETERS, *MODULES, *DTYPES),
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


def read_published(path: Path) -> Published:
    """Read the network of a published pickle; tensors keep their dtype.

    Raises:
        UserError: the file does not exist, is not a pickle, is truncated, names a global that is not
            allowed, or holds no network.
    """
    try:
        contents = entries(read_records(path, _Unpickler))
        network = contents.get("ema") or contents.get("net")
        published = _published(network, contents.get("encoder"), path) if network else None
    except ForbiddenGlobalError as name:
        raise UserError(
            f"{path}: refused: it names {shown(str(name))}, which is not needed to store a network. "
            "Nothing in the file was run. Use a file that EDM2's authors published."
        ) from None
    except Exception as error:  # a damaged pickle may raise any exception
        raise UserError(
            f"{path}: cannot be read as a network pickle ({type(error).__name__}: {shown(str(error))}). "
            "Use one of EDM2's, and download it completely."
        ) from None
    if published is None:
        raise UserError(
            f"{path}: holds no network: expected an entry ema, found {shown(sorted(map(shown, contents)))}. "
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
        values = dict(_numbers_and_plain({**given, **state}))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: the entry encoder cannot be read ({shown(str(error))}). Use a network pickle of "
            "EDM2's authors."
        ) from None
    return PublishedEncoder(class_name, values)


def _published(network: Any, encoder: Any, path: Path) -> Published:
    class_name, state = _module(network)
    arguments, others, budget = {}, [], Budget(MAX_OBJECTS, "values")
    for name, value in entries(state.get("_init_kwargs") or {}).items():
        try:
            arguments[shown(name)] = _plain_value(value, budget)
        except LimitError:
            raise
        except ValueError:
            others.append(shown(name))
    tensors = _Tensors(path).named(network)
    return Published(class_name, tensors, arguments, tuple(others), encoder)


def _module(value: Any) -> tuple[str, dict[str, Any]]:
    """Class name and state of a module, whether persistent or plain."""
    if kind(value) == PERSISTENT:
        meta = entries(value.args[0])
        return shown(meta["class_name"]), entries(meta["state"])
    if kind(value) in MODULES:
        return kind(value).rpartition(".")[2], entries(value.state)
    raise ValueError(f"expected a module, found {kind(value)}")


class _Tensors:
    """Reads the tensors of a network from its record."""

    def __init__(self, path: Path) -> None:
        self.reader = TensorReader(path.stat().st_size, self._storage)
        self.storages: dict[int, Storage] = {}  # by id of their record
        self.modules: set[int] = set()  # the ids of those that were seen
        self.budget = Budget(MAX_OBJECTS, "parts of a network")

    def named(self, network: Any) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name, as in a state_dict."""
        return dict(self._named(network, "", 0))

    def _named(self, module: Any, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
        if id(module) in self.modules:
            raise ValueError(f"the module {shown(prefix)} occurs twice: expected a tree of modules")
        if depth > MAX_NESTING:
            raise LimitError(f"modules in more than {MAX_NESTING} levels")
        self.modules.add(id(module))
        _, state = _module(module)
        left_out = state.get("_non_persistent_buffers_set", ())
        left_out = left_out.args[0] if kind(left_out) == SET else left_out
        groups = [entries(state[name]) for name in ("_parameters", "_buffers", "_modules")]
        self.budget.spend(1 + len(left_out) + sum(map(len, groups)))
        skipped = {name for name in left_out if isinstance(name, str)}
        for name, tensor in (groups[0] | groups[1]).items():
            if tensor is not None and name not in skipped:
                yield _joined(prefix, name), self.reader.tensor(tensor)
        for name, child in groups[2].items():
            if child is not None:
                yield from self._named(child, f"{_joined(prefix, name)}.", depth + 1)

    def _storage(self, record: Any) -> Storage:
        """A storage in either format of torch.save; one that several tensors share is read once."""
        if kind(record) != STORAGE:
            raise ValueError(f"expected a storage, found {kind(record)}")
        if id(record) not in self.storages:
            file = open_torch(as_bytes(record.args[0]))
            self.storages[id(record)] = file.storage(file.content)
        return self.storages[id(record)]


def _joined(prefix: str, name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"a part of a network with the name {shown(name)}")
    return prefix + name


def _plain_value(value: Any, budget: Budget, depth: int = 0) -> Any:
    budget.spend()
    if depth > MAX_NESTING:
        raise LimitError(f"values nested in more than {MAX_NESTING} levels")
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return type(value)([_plain_value(entry, budget, depth + 1) for entry in value])
    return {
        _plain_value(name, budget, depth + 1): _plain_value(entry, budget, depth + 1)
        for name, entry in entries(value).items()
    }


def _numbers_and_plain(given: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Those of some values that are arrays, numbers or plain values."""
    budget = Budget(MAX_OBJECTS, "values")
    for name, value in given.items():
        try:
            yield shown(name), _plain_value(value, budget)
        except LimitError:
            raise
        except ValueError:
            try:
                numbers = array(value)
            except ValueError:
                continue
            budget.spend(numbers.size)
            yield shown(name), numbers
