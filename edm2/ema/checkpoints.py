"""Checkpoints of other programs: named tensors in a safetensors file, or in a file of `torch.save`.

Nothing in a file is run: it is read as records (`edm2.runtime.torch_records`).
Values are memory maps, read when they are used; only files of PyTorch before 1.6 are read at once.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from edm2.params import UserError
from edm2.runtime.limits import MAX_OBJECTS, Budget, LimitError, require_file, shown
from edm2.runtime.pickle_records import ForbiddenGlobalError, kind
from edm2.runtime.torch_records import read_torch

SAFETENSORS = ".safetensors"
# Modules that hold an averaged model: entries by which they are known, and the prefix of the model's names
WRAPPERS = ((("initted", "step"), "ema_model."), (("n_averaged",), "module."))
SHOWN = 8  # names in an error

Tensors = dict[str, torch.Tensor]


def read_checkpoint(path: str | Path, key: str = "") -> Tensors:
    """The named tensors of a file, on the CPU.

    Averages of ema-pytorch (`ema_model.*`) and of `torch.optim.swa_utils.AveragedModel` (`module.*`)
    have the names of the model that is averaged.

    Args:
        key: where the tensors are, in a file of nested dicts: `ema`, or `state.ema`; or the first
            parts of names, which are removed. Empty: wherever there is only one dict of tensors.

    Raises:
        UserError: the file cannot be read, or needs code that is not allowed; there are no tensors at
            the key; without a key, no dict of tensors or several of them.
    """
    path = Path(path)
    tree = _load_safetensors(path) if path.suffix == SAFETENSORS else _load_torch(path)
    chosen = tree if not key else _at(path, tree, key)
    try:
        found = dict(_tensor_dicts(chosen, key, Budget(MAX_OBJECTS, "entries of dicts")))
    except LimitError as error:
        raise UserError(f"{path}: {error}: no checkpoint. Use another file.") from None
    if len(found) != 1:
        raise UserError(_not_one(path, tree, found, key))
    (tensors,) = found.values()
    for marks, prefix in WRAPPERS:
        inner = _without_prefix(tensors, prefix)
        if inner and all(mark in tensors for mark in marks):
            return inner
    return tensors


def _load_safetensors(path: Path) -> Tensors:
    try:
        require_file(path)
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read as a safetensors file ({shown(str(error))}). Copy it again, completely."
        ) from None


def _load_torch(path: Path) -> Any:
    try:
        return read_torch(path)
    except ForbiddenGlobalError as name:
        raise UserError(
            f"{path}: refused: it names {shown(str(name))}, which could run code. Nothing in the file was "
            "run. If you trust it, load it in Python where it was made, and save its tensors alone: "
            "torch.save(checkpoint['ema'], 'ema.pt')."
        ) from None
    except Exception as error:  # a damaged pickle may raise any exception
        raise UserError(
            f"{path}: cannot be read as a PyTorch checkpoint ({type(error).__name__}: {shown(str(error))}). "
            "Expected a file of torch.save, or a safetensors file named *.safetensors; copy it again, "
            "completely."
        ) from None


def _tensor_dicts(tree: Any, key: str, budget: Budget) -> Iterator[tuple[str, Tensors]]:
    """Dicts of tensors by their key; below names that are not text are states of optimizers."""
    if not isinstance(tree, Mapping):
        return
    budget.spend(1 + len(tree))
    named = {name: value for name, value in tree.items() if isinstance(name, str)}
    tensors = {name: t.detach() for name, t in named.items() if isinstance(t, torch.Tensor)}
    if len(tensors) == len(tree) and any(t.is_floating_point() for t in tensors.values()):
        yield key, tensors
        return
    for name, value in named.items():
        yield from _tensor_dicts(value, f"{key}.{name}" if key else name, budget)


def _at(path: Path, tree: Any, key: str) -> Any:
    """What is at a key; a name in the file may contain dots, too."""
    value = _descend(tree, key)
    if value is None:
        raise UserError(
            f"{path}: nothing at --key {key}: expected one of {_names(tree)}, or what they hold, like "
            "state.ema."
        )
    return value


def _descend(tree: Any, key: str) -> Any:
    if not isinstance(tree, Mapping):
        return None
    if key in tree:
        return tree[key]
    for name in tree:
        if isinstance(name, str) and key.startswith(f"{name}."):
            value = _descend(tree[name], key.removeprefix(f"{name}."))
            if value is not None:
                return value
    return _without_prefix(tree, f"{key}.") or None


def _without_prefix(tensors: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def _not_one(path: Path, tree: Any, found: Mapping[str, Tensors], key: str) -> str:
    if not found:
        where = f"at --key {key}" if key else "in it"
        return (
            f"{path}: no dict of nothing but named tensors {where}: it holds {_names(tree)}. Expected "
            "the state_dict of a model; choose where it is with --key."
        )
    several = ", ".join(map(shown, list(found)[:SHOWN]))
    return (
        f"{path}: {len(found)} dicts of tensors: {several}. Choose the averaged network with --key."
    )


def _names(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        return f"a {_type(tree)}"
    names = [f"{shown(name)} ({_type(value)})" for name, value in list(tree.items())[:SHOWN]]
    return ", ".join(names) + (", …" if len(tree) > SHOWN else "") if names else "nothing"


def _type(value: Any) -> str:
    return kind(value).rpartition(".")[2]
