"""Nested state as safetensors: tensors as tensors, everything else as JSON in the header.

A tree is any nesting of dicts (keys str or int), lists, tuples, tensors and JSON scalars, like the
result of `state_dict()`. No pickle is involved.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edm2.params import UserError
from edm2.runtime.files import replacing


def save_tree(path: Path, tree: Any) -> None:
    """Write `tree` to `path`; an older file of that name remains until the new one is complete."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = json.dumps(_split(tree, tensors))
    digest = _digest(tensors, skeleton)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"skeleton": skeleton, "digest": digest})


def load_tree(path: Path) -> Any:
    """Read a tree that `save_tree` wrote; its tensors are on the CPU.

    Raises:
        UserError: the file is truncated or corrupted.
    """
    try:
        with safe_open(path, framework="pt") as file:
            skeleton, digest = (file.metadata()[key] for key in ("skeleton", "digest"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(_unusable(path, str(error))) from None
    if _digest(tensors, skeleton) != digest:
        raise UserError(_unusable(path, "its content does not match its checksum"))
    return _join(json.loads(skeleton), tensors)


def _unusable(path: Path, reason: str) -> str:
    return (
        f"{path}: this checkpoint cannot be used ({reason}). Remove this file and run the same "
        "command again: it continues from the previous checkpoint, or from the beginning."
    )


def _split(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree with each tensor replaced by a number, which is the tensor's key in `tensors`."""
    if isinstance(node, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(node, dict):
        return {"dict": [[key, _split(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return {kind: [_split(item, tensors) for item in node]}
    return {"value": node}


def _join(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _join(value, tensors) for key, value in content}
    if kind == "value":
        return content
    items = [_join(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _digest(tensors: dict[str, torch.Tensor], skeleton: str) -> str:
    digest = hashlib.blake2b(skeleton.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
