"""Tensors whose rows are sharded over the ranks: parameters by FSDP2, and what is kept of each of them
(averages, gradients, moments of the optimizer). PyTorch's class for them is `DTensor`.
"""

from typing import Any

import torch

from edm2.runtime.distributed import is_main_process


def is_dtensor(value: object) -> bool:
    """Whether `value` is a sharded tensor; its class, whose import takes half a second, is not imported."""
    return isinstance(value, torch.Tensor) and hasattr(value, "full_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a sharded tensor that this rank has, in the same memory; other tensors as they are."""
    rows: torch.Tensor = tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    return rows


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All rows of a sharded tensor, for which every rank must call this; other tensors as they are."""
    rows: torch.Tensor = tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    return rows


def sharded_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A whole tensor, the same on all ranks, sharded as `other` is; as it is if that is not sharded."""
    if is_dtensor(tensor) or not is_dtensor(other):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    values = tensor.to(other.device)
    return distribute_tensor(values, other.device_mesh, other.placements, src_data_rank=None)


def gather(tree: Any) -> Any:
    """A nesting of dicts, lists and tuples, its sharded tensors whole and on the CPU on the main process.

    Every rank must call this. Tensors are gathered one after another, and other ranks keep none of
    them: they have None there.
    """
    if is_dtensor(tree):
        tensor = whole(tree.detach())
        return tensor.cpu() if is_main_process() else None
    if isinstance(tree, dict):
        return {key: gather(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gather(value) for value in tree)
    return tree
