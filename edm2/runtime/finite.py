"""Values that are not finite are refused, before they become an image, a latent or a feature."""

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from edm2.params.errors import NotFiniteError
from edm2.runtime.sharding import local

LISTED = 3  # names in a message


def require_finite(values: torch.Tensor | NDArray[Any], what: str, remedy: str) -> None:
    """
    Args:
        values: of any shape; on a GPU this waits for them.
        what: what the values are, and where.
        remedy: what to do, as a sentence.

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    finite = torch.as_tensor(values).isfinite()
    if not finite.all():
        count = finite.numel() - int(finite.sum())
        raise NotFiniteError(f"{what}: {count} of {finite.numel()} values are not finite. {remedy}")


def nonfinite_rows(values: torch.Tensor) -> list[int]:
    """The indices along the first axis with a value that is NaN or infinite."""
    return (~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()


def nonfinite_tensors(tree: Any) -> list[str]:
    """Names of the floating-point tensors of a state that are not finite, by their keys: a.b.c.

    Of DTensors this rank's part counts.
    """
    tensors = [(name, t) for name, t in _tensors(tree, "") if t.is_floating_point()]
    if not tensors:
        return []
    device = tensors[0][1].device
    finite = torch.stack([tensor.isfinite().all().to(device) for _, tensor in tensors]).tolist()
    return [name for (name, _), ok in zip(tensors, finite, strict=True) if not ok]


def listed(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _tensors(node: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(node, torch.Tensor):
        yield name, local(node)
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
