"""Per-channel normalization of latents to zero mean and standard deviation 0.5."""

from dataclasses import dataclass

import torch

SIGMA_DATA = 0.5  # standard deviation of normalized latents (EDM2 Table 1)


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of a codec's latents over a dataset."""

    mean: torch.Tensor  # float32 [C]
    std: torch.Tensor  # float32 [C]

    def to(self, device: torch.device) -> "Normalization":
        return Normalization(self.mean.to(device), self.std.to(device))

    def normalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Codec latents [N, C, H, W] → zero mean and standard deviation 0.5 per channel."""
        mean, std = self._broadcast(latents)
        return (latents - mean) / std * SIGMA_DATA

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize`."""
        mean, std = self._broadcast(latents)
        return latents / SIGMA_DATA * std + mean

    def _broadcast(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (value.to(x.device).reshape(1, -1, 1, 1) for value in (self.mean, self.std))
        return mean, std
