"""Batches that the denoiser is trained on."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch

from edm2.data.latents import LatentShards
from edm2.data.stream import stream
from edm2.diffusion.objective import Objective
from edm2.params.runtime import Runtime
from edm2.runtime.noise import normals, uniforms

# clean latents, noise, ln σ, labels
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class StoredLatents:
    """Reads mean, std and label of latents; see `edm2.data.stream.Reader`."""

    dataset: LatentShards

    def __call__(self, numbers: range, indices: list[int]) -> tuple[torch.Tensor, ...]:
        return self.dataset.batch(indices)


def batches(
    latents: LatentShards,
    objective: Objective,
    batch: int,
    label_dropout: float,
    seed: int,
    runtime: Runtime,
    device: torch.device,
) -> Callable[[int], Generator[Batch, None, None]]:
    """The training batches on `device`, as a function of the time in images that they start from.

    Each image has a new sample of its latent, noise, and ln σ of the objective; with
    probability `label_dropout` its label is −1, no class. All of it is drawn on the device.
    """
    shape = latents.shape
    pixels = int(np.prod(shape))
    normalization = latents.normalization.to(device)

    def draw(
        numbers: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, labels: torch.Tensor
    ) -> Batch:
        draws = normals(seed, "diffusion/batch", numbers, (2 * pixels + 1,))
        latent_noise, noise, level = draws.split([pixels, pixels, 1], dim=1)
        sample = mean.float() + std.float() * latent_noise.reshape(-1, *shape)
        if label_dropout:
            dropped = uniforms(seed, "diffusion/label_dropout", numbers) < label_dropout
            labels = labels.masked_fill(dropped, -1)
        ln_sigma = objective.ln_sigma(level.squeeze(1))
        return normalization.normalize(sample), noise.reshape(-1, *shape), ln_sigma, labels

    def start(nimg: int) -> Generator[Batch, None, None]:
        for tensors in stream(StoredLatents(latents), batch, seed, nimg, runtime, device):
            yield draw(*tensors)

    return start
