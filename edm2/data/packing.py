"""Tensors of a part of a batch as one tensor of bytes: moved between processes and to the device at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

Tensors = tuple[torch.Tensor, ...]
ALIGNMENT = 16  # bytes


@dataclass(frozen=True)
class Packed:
    """Some tensors.

    Attributes:
        data: their bytes, uint8.
        layout: type, shape and first byte of each.
    """

    data: torch.Tensor
    layout: tuple[tuple[torch.dtype, torch.Size, int], ...]

    @staticmethod
    def of(tensors: Tensors) -> "Packed":
        layout, end = [], 0
        for tensor in tensors:
            layout.append((tensor.dtype, tensor.shape, end))
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        packed = Packed(torch.empty(end, dtype=torch.uint8), tuple(layout))
        for target, tensor in zip(packed.tensors(), tensors, strict=True):
            target.copy_(tensor)
        return packed

    def tensors(self) -> Tensors:
        """Views of the bytes."""
        return tuple(
            self.data[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for dtype, shape, start in self.layout
        )

    def pin_memory(self) -> "Packed":
        """As `DataLoader` asks for."""
        return Packed(self.data.pin_memory(), self.layout)

    def to(self, device: torch.device) -> "Packed":
        """On a device; from pinned memory without waiting for it."""
        return Packed(self.data.to(device, non_blocking=True), self.layout)


def joined(batches: Iterator[list[Packed]], device: torch.device) -> Iterator[Tensors]:
    """The parts of each batch joined, on the device. A GPU copies the next batch beside its computations."""
    if device.type != "cuda":
        yield from (_join(parts, device) for parts in batches)
        return
    copying = torch.cuda.Stream(device)

    def copy() -> Tensors:
        parts = next(batches)
        with torch.cuda.stream(copying):
            return _join(parts, device)

    following = copy()
    while True:
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in following:
            tensor.record_stream(computing)  # its memory is in use until then
        current, following = following, copy()
        yield current


def _join(parts: list[Packed], device: torch.device) -> Tensors:
    fields = zip(*(part.to(device).tensors() for part in parts), strict=True)
    return tuple(torch.cat(field) if len(field) > 1 else field[0] for field in fields)
