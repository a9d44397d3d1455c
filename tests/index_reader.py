"""A reader of indices instead of images, which processes can import."""

import time
from dataclasses import dataclass
from multiprocessing import active_children
from types import SimpleNamespace
from typing import Any

import torch

from edm2.data.stream import stream

SIZE, BATCH, CPU = 10, 4, torch.device("cpu")


class Dataset:
    samples = None

    def __len__(self) -> int:
        return SIZE


@dataclass(frozen=True)
class Indices:
    """Reads the indices themselves; fails at the image with the number `error_at`."""

    dataset: Dataset
    error_at: int = -1
    error: Exception | None = None

    def __call__(self, numbers: range, indices: list[int]) -> tuple[torch.Tensor, ...]:
        if self.error_at in numbers:
            raise self.error
        return torch.tensor(indices), torch.tensor(numbers).half()[:, None].expand(-1, 3)


def runtime(workers: int | None = 0, reading: str = "random") -> Any:
    return SimpleNamespace(workers=workers, reading=reading)


def read_and_tell(sender: Any) -> None:
    """Start two workers, send their process ids, and wait."""
    batches = stream(Indices(Dataset()), BATCH, 0, 0, runtime(2), CPU)
    next(batches)
    sender.send([child.pid for child in active_children()])
    time.sleep(60)
