"""Images of one size: those of image shards, `{key}.png` and `{key}.cls`, and what all share."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from edm2.data.pictures import Pixels, centre_square, random_square, resized
from edm2.data.shards import Shards

T = TypeVar("T")
SMALL = 64  # below this resolution an image is read faster than a thread starts
THREADS = min(8, os.cpu_count() or 1)  # that read a batch of larger ones

PIXELS = 8 * 512**2


def image_sample(key: str, image: Pixels, label: int) -> dict[str, str | bytes]:
    """A shard sample of a uint8 HWC image, losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return {"__key__": key, "png": buffer.getvalue(), "cls": str(label).encode()}


class Images(ABC):
    """Images uint8 [3, R, R] with their int labels, made of stored pictures of any size."""

    resolution: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture(self, index: int) -> tuple[Image.Image, int]:
        """An image as it is stored, in RGB, and its label."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """The picture's largest centered square."""
        picture, label = self.picture(index)
        return _planes(resized(centre_square(picture), self.resolution)), label

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [N, 3, R, R] and int64 [N]."""
        images, labels = zip(*self._each(self.__getitem__, indices), strict=True)
        return torch.stack(images), torch.tensor(labels)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images once, in order; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))))

    def augmented(
        self,
        indices: Sequence[int],
        generators: Iterable[np.random.Generator],
        min_area: float,
        flip: float,
    ) -> torch.Tensor:
        """uint8 [N, 3, R, R]: images under random crops and horizontal flips.

        Args:
            generators: of the randomness of each image.
            min_area: the smallest part of the largest square's area that a crop takes; 1: that
                square, from the middle.
            flip: probability of a flip. Without crops and flips the images are those of `batch`.
        """

        def image(index: int, rng: np.random.Generator) -> torch.Tensor:
            picture, _ = self.picture(index)
            if min_area < 1:
                picture = random_square(picture, min_area, rng)
            pixels = resized(centre_square(picture), self.resolution)
            return _planes(pixels[:, ::-1].copy() if rng.random() < flip else pixels)

        return torch.stack(self._each(image, indices, generators))

    def _each(self, read: Callable[..., T], *items: Iterable[object]) -> list[T]:
        """What `read` gives for the items, in order; decoders leave Python's lock to each other."""
        if self.resolution < SMALL:
            return list(map(read, *items))
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(read, *items))


class ImageShards(Images):
    """The images that `prepare` made."""

    def __init__(self, folder: Path, split: str) -> None:
        self.shards = Shards(folder, split)
        self.classes: list[str] = self.shards.facts["classes"]
        self.resolution: int = self.shards.facts["resolution"]

    def __len__(self) -> int:
        return len(self.shards)

    def picture(self, index: int) -> tuple[Image.Image, int]:
        sample = self.shards[index]
        return Image.open(io.BytesIO(sample["png"])), int(sample["cls"])


def max_batch_size(side: int) -> int:
    """How many images of `side`×`side` a large network sees together: eight of 512×512.

    Stable Diffusion's decoder takes about 10 GiB for that, in float32.
    """
    return max(1, PIXELS // side**2)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] → float32 [-1, 1], as networks take them."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """float [-1, 1] → uint8 [0, 255], rounded and clamped."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def _planes(pixels: Pixels) -> torch.Tensor:
    """HWC → CHW"""
    return torch.from_numpy(pixels).permute(2, 0, 1)
