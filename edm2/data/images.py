"""Image shards: `{key}.png` and `{key}.cls`."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edm2.data.shards import Shards
from edm2.data.sources import Pixels


def image_sample(key: str, image: Pixels, label: int) -> dict[str, str | bytes]:
    """A shard sample of a uint8 HWC image, losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return {"__key__": key, "png": buffer.getvalue(), "cls": str(label).encode()}


class ImageShards:
    """Images uint8 [3, R, R] with their int labels."""

    def __init__(self, folder: Path, split: str) -> None:
        self.shards = Shards(folder, split)
        self.classes: list[str] = self.shards.facts["classes"]
        self.resolution: int = self.shards.facts["resolution"]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = self.shards[index]
        pixels = np.array(Image.open(io.BytesIO(sample["png"])))  # HWC
        return torch.from_numpy(pixels).permute(2, 0, 1), int(sample["cls"])

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [N, 3, R, R] and int64 [N]."""
        images, labels = zip(*(self[i] for i in indices), strict=True)
        return torch.stack(images), torch.tensor(labels)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images once, in order; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] → float32 [-1, 1], as networks take them."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """float [-1, 1] → uint8 [0, 255], rounded and clamped."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
