"""Latent shards: `{key}.safetensors` with mean and std of one image's latent, and `{key}.cls`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from edm2.data.normalization import Normalization
from edm2.data.shards import Samples, Shards, write_shard
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime.finite import require_finite
from edm2.runtime.manifest import REBUILD_HINT, load_manifest
from edm2.runtime.records import read_record

CODEC_HINT = (
    "The codec (models/vae) diverged, or its latents are too large: train it again, or set latents.dtype to "
    "float32."
)
MOMENTS = "latent_moments"  # in the record of a shard
DTYPE = "dtype"  # in the manifest; without it latents have 16 bits
MIN_STD = 1e-6  # a latent channel with a smaller standard deviation carries no information


class Format(NamedTuple):
    """How the numbers of latents are stored.

    Attributes:
        numbers, bits: dtypes of the numbers, and of their bits as an integer.
        exponent: those bits that are all 1 in numbers that are not finite.
    """

    numbers: np.dtype[Any]
    bits: np.dtype[Any]
    exponent: int


FORMATS = {
    torch.float16: Format(np.dtype("<f2"), np.dtype("<u2"), 0x7C00),
    torch.float32: Format(np.dtype("<f4"), np.dtype("<u4"), 0x7F800000),
}


@dataclass
class LatentMoments:
    """Streamed per-channel moments of latents distributed as N(mean, std²), in float64.

    Attributes:
        shape: of a latent, C, H, W.
        images: number of latents.
        sum, sum_of_squares: E[z] and E[z²] of each channel, summed over images and pixels, [C].
    """

    shape: tuple[int, int, int]
    images: int
    sum: torch.Tensor
    sum_of_squares: torch.Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "LatentMoments":
        return cls(shape, 0, *torch.zeros(2, shape[0], dtype=torch.float64))

    def update(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Add a batch of [N, C, H, W]. E[z] = E[mean]; E[z²] = E[mean² + std²].

        Raises:
            ValueError: latents of another shape.
        """
        if mean.shape[1:] != self.shape or std.shape != mean.shape:
            raise ValueError(f"expected latents of {self.shape}, got {mean.shape} and {std.shape}")
        mean, std = mean.double(), std.double()
        self.images += len(mean)
        self.sum += mean.sum(dim=(0, 2, 3)).cpu()
        self.sum_of_squares += (mean.square() + std.square()).sum(dim=(0, 2, 3)).cpu()

    def merge(self, other: "LatentMoments") -> "LatentMoments":
        """Add other latents of the same shape; returns itself."""
        self.images += other.images
        self.sum += other.sum
        self.sum_of_squares += other.sum_of_squares
        return self

    def normalization(self) -> Normalization:
        count = self.images * self.shape[1] * self.shape[2]
        mean = self.sum / count
        std = (self.sum_of_squares / count - mean.square()).clamp(min=0).sqrt()
        return Normalization(mean.float(), std.float())

    def to_json(self) -> dict[str, Any]:
        """Exact: JSON keeps all bits of a float."""
        sums = {"sum": self.sum.tolist(), "sum_of_squares": self.sum_of_squares.tolist()}
        return {"shape": list(self.shape), "images": self.images, **sums}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "LatentMoments":
        sums = (torch.tensor(tree[key], dtype=torch.float64) for key in ("sum", "sum_of_squares"))
        return cls(tuple(tree["shape"]), tree["images"], *sums)


def latent_sample(
    key: str,
    mean: torch.Tensor,
    std: torch.Tensor,
    label: int,
    dtype: torch.dtype = torch.float16,
) -> dict[str, str | bytes]:
    """A shard sample of [C, H, W] mean and std.

    16 bits take half the disk space, with a rounding error far below the lowest noise level.

    Raises:
        NotFiniteError: a value is not finite in `dtype`.
    """
    tensors = {"mean": mean.to(dtype).contiguous(), "std": std.to(dtype).contiguous()}
    for name, tensor in tensors.items():
        what = f"latent of image {key}, {name} in {dtype_name(dtype)}"
        require_finite(tensor, what, CODEC_HINT)
    return {"__key__": key, "safetensors": save(tensors), "cls": str(label).encode()}


def write_latents(path: Path, moments: LatentMoments, samples: Iterable[Mapping[str, Any]]) -> None:
    """Write one shard of latents; its record keeps `moments`, which are complete after the last sample."""
    write_shard(path, samples, lambda: {MOMENTS: moments.to_json()})


def latent_metadata(
    folder: Path,
    normalization: Normalization | None = None,
    dtype: torch.dtype = torch.float16,
) -> dict[str, Any]:
    """Shape of the latents in a folder of shards, and their per-channel mean and std.

    These come from the records of the shards, added in their order; no latent is read.

    Args:
        normalization: mean and std to use; None: those of all training latents.
        dtype: of the stored numbers.

    Raises:
        UserError: there are no latents; a record is missing or damaged; a measured channel is the same
            for all images; or a mean or standard deviation is not finite.
    """
    moments = _moments(folder)
    if normalization is not None:
        return _metadata(folder, moments.shape, normalization, dtype)
    measured = moments.normalization()
    for channel in (measured.std < MIN_STD).nonzero().flatten().tolist():
        raise UserError(
            f"{folder}: latent channel {channel} is the same for all images: the codec does "
            "not use it. For a trained one set vae.variance above 0, or vae.latent_channels lower."
        )
    return _metadata(folder, moments.shape, measured, dtype)


def measured_normalization(folder: Path) -> Normalization:
    """Mean and std of all training latents in a folder of shards. Raises UserError; see `latent_metadata`."""
    return _moments(folder).normalization()


def _moments(folder: Path) -> LatentMoments:
    records = [read_record(path) for path in sorted(folder.glob("train-*.tar"))]
    if not records:
        raise UserError(f"{folder}: expected latent shards (train-*.tar), found none.")
    parts = (LatentMoments.from_json(record[MOMENTS]) for record in records)
    return reduce(LatentMoments.merge, parts)


def _metadata(
    folder: Path, shape: tuple[int, int, int], normalization: Normalization, dtype: torch.dtype
) -> dict[str, Any]:
    mean, std = normalization.mean, normalization.std
    for name, values in (("means", mean), ("standard deviations", std)):
        require_finite(values, f"{folder}: {name} of the latent channels", CODEC_HINT)
    stored = {} if dtype == torch.float16 else {DTYPE: dtype_name(dtype)}
    return {"shape": list(shape), "mean": mean.tolist(), "std": std.tolist(), **stored}


def dtype_name(dtype: torch.dtype) -> str:
    """Its name in params and manifests."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class LatentSpace:
    """What the manifest of a folder of latents says.

    Attributes:
        classes: names of the classes.
        shape: of a latent, C, H, W.
        normalization: mean and std of each channel.
    """

    classes: list[str]
    shape: tuple[int, int, int]
    normalization: Normalization

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "LatentSpace":
        mean, std = torch.tensor(metadata["mean"]), torch.tensor(metadata["std"])
        return cls(metadata["classes"], tuple(metadata["shape"]), Normalization(mean, std))


def read_latent_space(folder: Path) -> LatentSpace:
    """Read the manifest alone: sampling needs no latents.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return LatentSpace.of(load_manifest(folder))


class LatentShards:
    """Mean and std [C, H, W] of each image's latent, on the codec's own scale, with int labels."""

    def __init__(self, folder: Path, split: str) -> None:
        """Raises UserError; see `Shards`."""
        self.shards = Shards(folder, split)
        space = LatentSpace.of(self.shards.metadata)
        self.classes, self.shape = space.classes, space.shape
        self.normalization = space.normalization
        self.dtype = getattr(torch, self.shards.metadata.get(DTYPE, "float16"))
        self._format = FORMATS[self.dtype]
        zeros = torch.zeros(self.shape, dtype=self.dtype)
        self._header = save({"mean": zeros, "std": zeros.clone()})[: -2 * zeros.nbytes]

    @property
    def samples(self) -> Samples:
        return self.shards

    def __len__(self) -> int:
        return len(self.shards)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and std [N, C, H, W] as stored, in float16 or float32; int64 labels [N].

        Raises:
            NotFiniteError: a value is not finite; names the first such latent.
        """
        numbers, bits, exponent = self._format
        values = np.empty((len(indices), 2, *self.shape), numbers)
        labels = np.empty(len(indices), np.int64)
        for row, index in enumerate(indices):
            sample = self.shards[index]
            values[row], labels[row] = self._values(sample["safetensors"]), int(sample["cls"])
        finite = (values.view(bits) & exponent != exponent).reshape(len(indices), -1).all(1)
        if not finite.all():
            raise NotFiniteError(
                f"{self.shards.folder}: latent number {indices[int(finite.argmin())]}: not all values "
                f"are finite. {REBUILD_HINT}"
            )
        mean, std = torch.from_numpy(values).unbind(1)
        return mean, std, torch.from_numpy(labels)

    def _values(self, content: bytes) -> NDArray[np.floating]:
        """Mean and std from a file; without parsing it if its header is that of `latent_sample`."""
        if content.startswith(self._header):
            values = np.frombuffer(content, self._format.numbers, offset=len(self._header))
            return values.reshape(2, *self.shape)
        tensors = load(content)
        return torch.stack([tensors["mean"], tensors["std"]]).numpy()
