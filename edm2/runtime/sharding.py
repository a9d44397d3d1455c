"""Tensors whose rows are sharded over the ranks: parameters by FSDP2, and what is kept of each of them
(averages, gradients, moments of the optimizer). PyTorch's class for them is `DTensor`.
"""

from collections.abc import Mapping

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


def gather(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sharded tensors whole and on the CPU, others as they are, on the main process; nothing elsewhere.

    Every rank must call this. Tensors are gathered one after another.
    """
    gathered = {}
    for name, tensor in tensors.items():
        values = whole(tensor.detach()).cpu() if is_dtensor(tensor) else tensor
        if is_main_process():
            gathered[name] = values
    return gathered
