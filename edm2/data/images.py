"""Image datasets of one resolution, and image shards (`{key}.png` with `{key}.cls`)."""

import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from edm2.data.cropping import crop_to_square, random_crop
from edm2.data.decoding import DamagedImageError, Pixels
from edm2.data.shards import Samples, Shards
from edm2.data.tally import Tally
from edm2.params.dataset import Crop
from edm2.runtime.finite import require_finite
from edm2.runtime.workers import cores

T = TypeVar("T")
MIN_THREADED_RESOLUTION = 64  # smaller images are read faster than a thread starts
THREADS = min(8, cores())
MAX_BATCH_PIXELS = 8 * 512**2
RUN_AGAIN = "run this again"


def image_sample(key: str, image: Pixels, label: int) -> dict[str, str | bytes]:
    """A shard sample of a uint8 HWC image, compressed without loss.

    Only runs of equal bytes are compressed: at 512×512 that takes a quarter of the time of zlib's
    default, and photographs become no larger.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", compress_type=zlib.Z_RLE)
    return {"__key__": key, "png": buffer.getvalue(), "cls": str(label).encode()}


class ImageDataset(ABC):
    """Images uint8 [3, R, R] with int labels, cropped and resized from stored images of any size.

    Attributes:
        after_repair: what to do when damaged images were replaced, for errors.
        samples: the shards that they are read from, if there are any.
    """

    resolution: int
    crop: Crop
    after_repair = RUN_AGAIN
    samples: Samples | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load_image(self, index: int) -> tuple[Image.Image, int]:
        """An image at its stored size, in RGB, and its label."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """The image as a square, and its label."""
        image, label = self.load_image(index)
        return to_chw(crop_to_square(image, self.resolution, self.crop)), label

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [N, 3, R, R] and int64 [N]."""
        images, labels = zip(*self._map(self.__getitem__, indices), strict=True)
        return torch.stack(images), torch.tensor(labels)

    def augmented_batch(
        self,
        indices: Sequence[int],
        generators: Iterable[np.random.Generator],
        min_area: float,
        flip: float,
    ) -> torch.Tensor:
        """uint8 [N, 3, R, R]: images with random crops and horizontal flips.

        Args:
            generators: one per image, for its random numbers.
            min_area: smallest area of a crop, as a fraction of the largest square's; 1: no random
                crops, always the center.
            flip: probability of a flip. With min_area 1 and flip 0 the images equal those of `batch`.
        """

        def augment(index: int, rng: np.random.Generator) -> torch.Tensor:
            image, _ = self.load_image(index)
            if min_area < 1:
                image = random_crop(image, min_area, rng)
            pixels = crop_to_square(image, self.resolution, self.crop)
            return to_chw(pixels[:, ::-1].copy() if rng.random() < flip else pixels)

        return torch.stack(self._map(augment, indices, generators))

    def damaged(self, indices: Sequence[int]) -> list[str]:
        """What is wrong with those of the images that cannot be decoded; their names are in the texts."""

        def problem(index: int) -> str:
            try:
                self.load_image(index)
            except DamagedImageError as error:
                return str(error)
            return ""

        return [text for text in self._map(problem, indices) if text]

    def _map(self, read: Callable[..., T], *items: Iterable[object]) -> list[T]:
        """`read` of each item, in order; in threads for large images, as decoders release the GIL.

        A worker process is one of several, and reads them itself.
        """
        if self.resolution < MIN_THREADED_RESOLUTION or get_worker_info() is not None:
            return list(map(read, *items))
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(read, *items))


class PreparedImages(ImageDataset):
    """One split of the dataset. Images have its resolution already.

    Attributes:
        doubtful: images that were decoded, and may not be meant as they are.
    """

    classes: list[str]
    doubtful: Tally

    @abstractmethod
    def by_shard(self) -> dict[str, range]:
        """The indices of the images in each shard, by the shard's file name."""


class ImageShards(PreparedImages):
    """One split of the shards that the `prepare` stage wrote."""

    def __init__(self, folder: Path, split: str) -> None:
        """Raises UserError; see `Shards`."""
        self.doubtful = Tally()  # found when they were prepared
        self.samples = self.shards = Shards(folder, split)
        self.classes = self.shards.metadata["classes"]
        self.resolution: int = self.shards.metadata["resolution"]
        self.crop: Crop = self.shards.metadata["crop"]

    def __len__(self) -> int:
        return len(self.shards)

    def load_image(self, index: int) -> tuple[Image.Image, int]:
        sample = self.shards[index]
        return Image.open(io.BytesIO(sample["png"]), formats=("PNG",)), int(sample["cls"])

    def by_shard(self) -> dict[str, range]:
        return self.shards.by_shard()


def max_batch_size(resolution: int) -> int:
    """How many square images a large network processes at once: eight of 512×512, more of smaller ones.

    Stable Diffusion's decoder needs about 10 GiB for that, in float32.
    """
    return max(1, MAX_BATCH_PIXELS // resolution**2)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] → float32 [-1, 1], the range that networks take.

    Raises:
        ValueError: values of another type, whose range is not known.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images of type {images.dtype}: expected torch.uint8, from 0 to 255")
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """float [N, ...] in [-1, 1] → uint8 [0, 255], rounded and clamped.

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    require_finite(images, "images", "The network that made them diverged, or overflows.")
    return rounded_to_uint8(images)


def rounded_to_uint8(images: torch.Tensor) -> torch.Tensor:
    """`to_uint8` of values that are known to be finite: on a GPU it waits for nothing."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def to_chw(pixels: Pixels) -> torch.Tensor:
    """HWC → CHW"""
    return torch.from_numpy(pixels).permute(2, 0, 1)
