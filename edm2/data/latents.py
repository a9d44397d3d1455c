"""Latent shards: `{key}.safetensors` with mean and std of one image's latent, and `{key}.cls`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from edm2.data.normalization import Normalization
from edm2.data.shards import Samples, Shards, open_shards
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime.finite import require_finite
from edm2.runtime.manifest import REBUILD_HINT
from edm2.runtime.progress import track

CODEC_HINT = "The codec (models/vae) diverged, or its latents are too large: train it again."
STORED = np.dtype("<f2")
EXPONENT = 0x7C00  # its bits in float16, which are all 1 in values that are not finite
MIN_STD = 1e-6  # a latent channel with a smaller standard deviation carries no information


class LatentMoments:
    """Streamed per-channel moments of latents distributed as N(mean, std²), in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0  # latent pixels per channel
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.sum_of_squares = torch.zeros(channels, dtype=torch.float64)

    def update(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Add a batch of [N, C, H, W]. E[z] = E[mean]; E[z²] = E[mean² + std²]."""
        mean, std = mean.double().cpu(), std.double().cpu()
        self.count += mean.numel() // mean.shape[1]
        self.sum += mean.sum(dim=(0, 2, 3))
        self.sum_of_squares += (mean.square() + std.square()).sum(dim=(0, 2, 3))

    def normalization(self) -> Normalization:
        mean = self.sum / self.count
        std = (self.sum_of_squares / self.count - mean.square()).clamp(min=0).sqrt()
        return Normalization(mean.float(), std.float())


def latent_sample(
    key: str, mean: torch.Tensor, std: torch.Tensor, label: int
) -> dict[str, str | bytes]:
    """A shard sample of [C, H, W] mean and std.

    Stored in 16 bits: half the disk space, with a rounding error far below the sampling noise.

    Raises:
        NotFiniteError: a value is not finite in 16 bits.
    """
    tensors = {"mean": mean.half().contiguous(), "std": std.half().contiguous()}
    for name, tensor in tensors.items():
        require_finite(tensor, f"latent of image {key}, {name} in float16", CODEC_HINT)
    return {"__key__": key, "safetensors": save(tensors), "cls": str(label).encode()}


def latent_metadata(folder: Path, normalization: Normalization | None = None) -> dict[str, Any]:
    """Shape of the latents in a folder of shards, and their per-channel mean and std.

    Args:
        normalization: mean and std to use; None: measure them over all training latents.

    Raises:
        UserError: there are no latents; a measured channel is the same for all images; or a mean or
            standard deviation is not finite.
    """
    shape, moments = None, None
    shards = sorted(folder.glob("train-*.tar"))
    for path in track(shards, "latent statistics", len(shards), "shard"):
        for sample in open_shards([path]):
            tensors = load(sample["safetensors"])
            mean, std = tensors["mean"][None].float(), tensors["std"][None].float()
            if moments is None:
                shape, moments = list(mean.shape[1:]), LatentMoments(mean.shape[1])
            if normalization is not None:
                return _metadata(folder, shape, normalization)
            moments.update(mean, std)
    if moments is None:
        raise UserError(f"{folder}: expected latent shards (train-*.tar), found none.")
    measured = moments.normalization()
    for channel in (measured.std < MIN_STD).nonzero().flatten().tolist():
        raise UserError(
            f"{folder}: latent channel {channel} is the same for all images: the codec does "
            "not use it. For a trained one set vae.variance above 0, or vae.latent_channels lower."
        )
    return _metadata(folder, shape, measured)


def _metadata(folder: Path, shape: Any, normalization: Normalization) -> dict[str, Any]:
    mean, std = normalization.mean, normalization.std
    for name, values in (("means", mean), ("standard deviations", std)):
        require_finite(values, f"{folder}: {name} of the latent channels", CODEC_HINT)
    return {"shape": shape, "mean": mean.tolist(), "std": std.tolist()}


class LatentShards:
    """Mean and std [C, H, W] of each image's latent, on the codec's own scale, with int labels."""

    def __init__(self, folder: Path, split: str) -> None:
        """Raises UserError; see `Shards`."""
        self.shards = Shards(folder, split)
        metadata = self.shards.metadata
        self.classes: list[str] = metadata["classes"]
        self.shape: tuple[int, int, int] = tuple(metadata["shape"])
        self.normalization = Normalization(
            torch.tensor(metadata["mean"]), torch.tensor(metadata["std"])
        )
        zeros = torch.zeros(self.shape, dtype=torch.float16)
        self._header = save({"mean": zeros, "std": zeros.clone()})[: -2 * zeros.nbytes]

    @property
    def samples(self) -> Samples:
        return self.shards

    def __len__(self) -> int:
        return len(self.shards)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and std [N, C, H, W] in float16, as stored; int64 labels [N].

        Raises:
            NotFiniteError: a value is not finite; names the first such latent.
        """
        values = np.empty((len(indices), 2, *self.shape), STORED)
        labels = np.empty(len(indices), np.int64)
        for row, index in enumerate(indices):
            sample = self.shards[index]
            values[row], labels[row] = self._values(sample["safetensors"]), int(sample["cls"])
        finite = (values.view(np.uint16) & EXPONENT != EXPONENT).reshape(len(indices), -1).all(1)
        if not finite.all():
            raise NotFiniteError(
                f"{self.shards.folder}: latent number {indices[int(finite.argmin())]}: not all values "
                f"are finite. {REBUILD_HINT}"
            )
        mean, std = torch.from_numpy(values).unbind(1)
        return mean, std, torch.from_numpy(labels)

    def _values(self, content: bytes) -> NDArray[np.float16]:
        """Mean and std from a file; without parsing it if its header is that of `latent_sample`."""
        if content.startswith(self._header):
            values = np.frombuffer(content, STORED, offset=len(self._header))
            return values.reshape(2, *self.shape)
        tensors = load(content)
        return torch.stack([tensors["mean"], tensors["std"]]).numpy()
