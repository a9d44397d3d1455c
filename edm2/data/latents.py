"""Latent shards: `{key}.safetensors` with mean and std of one image's latent, and `{key}.cls`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from edm2.data.shards import Samples, Shards
from edm2.params import UserError
from edm2.runtime.progress import track

LEAST_STD = 1e-6  # of a latent channel that says anything
SIGMA_DATA = 0.5  # standard deviation of normalized latents (EDM2 Table 1)


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of the codec's latents over a data set."""

    mean: torch.Tensor  # float32 [C]
    std: torch.Tensor  # float32 [C]

    def normalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Codec latents [N, C, H, W] → zero mean and standard deviation 0.5 per channel."""
        mean, std = self._like(latents)
        return (latents - mean) / std * SIGMA_DATA

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize`."""
        mean, std = self._like(latents)
        return latents / SIGMA_DATA * std + mean

    def _like(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (value.to(x.device).reshape(1, -1, 1, 1) for value in (self.mean, self.std))
        return mean, std


class LatentMoments:
    """Streamed per-channel moments of latents drawn from N(mean, std²), in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.first = torch.zeros(channels, dtype=torch.float64)
        self.second = torch.zeros(channels, dtype=torch.float64)

    def update(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Add a batch of [N, C, H, W]. E[z] = E[mean]; E[z²] = E[mean² + std²]."""
        mean, std = mean.double().cpu(), std.double().cpu()
        self.count += mean.numel() // mean.shape[1]
        self.first += mean.sum(dim=(0, 2, 3))
        self.second += (mean.square() + std.square()).sum(dim=(0, 2, 3))

    def normalization(self) -> Normalization:
        mean = self.first / self.count
        std = (self.second / self.count - mean.square()).clamp(min=0).sqrt()
        return Normalization(mean.float(), std.float())


def latent_sample(
    key: str, mean: torch.Tensor, std: torch.Tensor, label: int
) -> dict[str, str | bytes]:
    """A shard sample of [C, H, W] mean and std, in 16 bits (half the disk, noise far above it)."""
    tensors = {"mean": mean.half().contiguous(), "std": std.half().contiguous()}
    return {"__key__": key, "safetensors": save(tensors), "cls": str(label).encode()}


def latent_facts(folder: Path, constants: Normalization | None = None) -> dict[str, Any]:
    """Shape of the latents in a folder of shards, and their per-channel mean and std.

    Args:
        constants: the mean and std to give instead of the measured ones.

    Raises:
        UserError: there are no latents, or a channel to be measured is the same for all images.
    """
    shape, moments = None, None
    shards = sorted(folder.glob("train-*.tar"))
    for path in track(shards, "latent statistics", len(shards), "shard"):
        for sample in Samples([path]):
            tensors = load(sample["safetensors"])
            mean, std = tensors["mean"][None].float(), tensors["std"][None].float()
            if moments is None:
                shape, moments = list(mean.shape[1:]), LatentMoments(mean.shape[1])
            if constants is not None:
                return _facts(shape, constants)
            moments.update(mean, std)
    if moments is None:
        raise UserError(f"{folder}: no latent shards to measure.")
    found = moments.normalization()
    for channel in (found.std < LEAST_STD).nonzero().flatten().tolist():
        raise UserError(
            f"{folder}: latent channel {channel} is the same for all images: the codec does "
            "not use it. For a trained one set vae.variance above 0, or vae.latent_channels lower."
        )
    return _facts(shape, found)


def _facts(shape: Any, normalization: Normalization) -> dict[str, Any]:
    mean, std = normalization.mean.tolist(), normalization.std.tolist()
    return {"shape": shape, "mean": mean, "std": std}


class LatentShards:
    """Mean and std [C, H, W] of each image's latent, as the codec gave them, with int labels."""

    def __init__(self, folder: Path, split: str) -> None:
        self.shards = Shards(folder, split)
        facts = self.shards.facts
        self.classes: list[str] = facts["classes"]
        self.shape: tuple[int, int, int] = tuple(facts["shape"])
        self.normalization = Normalization(torch.tensor(facts["mean"]), torch.tensor(facts["std"]))

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        sample = self.shards[index]
        tensors = load(sample["safetensors"])
        return tensors["mean"].float(), tensors["std"].float(), int(sample["cls"])

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """float32 mean and std [N, C, H, W], int64 labels [N]."""
        means, stds, labels = zip(*(self[i] for i in indices), strict=True)
        return torch.stack(means), torch.stack(stds), torch.tensor(labels)
