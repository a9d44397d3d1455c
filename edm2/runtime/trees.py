"""Nested state as named tensors and a JSON text.

A tree is any nesting of dicts (keys str or int), lists, tuples, tensors and JSON scalars, like the
result of `state_dict()`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch

Path = tuple[str | int, ...]


def split(tree: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """The tree as JSON, in which a tensor is its name, and the tensors themselves by name.

    A name is the JSON list of the keys on the way to the tensor.

    Raises:
        TypeError: something is no tensor and cannot be JSON.
    """
    tensors: dict[str, torch.Tensor] = {}
    return json.dumps(_split(tree, (), tensors)), tensors


def join(skeleton: str, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The tree that was split."""
    return _join(json.loads(skeleton), tensors)


def _split(node: Any, path: Path, tensors: dict[str, torch.Tensor]) -> Any:
    def children(items: Iterable[tuple[str | int, Any]]) -> list[Any]:
        return [_split(item, (*path, key), tensors) for key, item in items]

    if isinstance(node, torch.Tensor):
        name = json.dumps(path)
        tensors[name] = node.detach()
        return {"tensor": name}
    if isinstance(node, dict):
        return {"dict": list(zip(node, children(node.items()), strict=True))}
    if isinstance(node, list | tuple):
        return {"tuple" if isinstance(node, tuple) else "list": children(enumerate(node))}
    return {"value": node}


def _join(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _join(value, tensors) for key, value in content}
    if kind == "value":
        return content
    items = [_join(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
