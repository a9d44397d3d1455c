"""Seeds → noise and labels → samples. A sample depends on its seed alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from edm2.params.evaluation import Sampling
from edm2.params.seams import SAMPLERS
from edm2.runtime.noise import normals
from edm2.runtime.randomness import generator
from edm2.sampling.guidance import ConditionalDenoise
from edm2.sampling.solver import Churn

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def seed_labels(
    seeds: Sequence[int], num_classes: int, kind: Literal["balanced", "uniform"]
) -> torch.Tensor:
    """Class labels int64 [N]; each depends on its seed alone.

    Args:
        kind: "balanced": seed modulo classes, so that consecutive seeds are balanced; "uniform": random.
    """
    if kind == "balanced":
        return torch.tensor([seed % num_classes for seed in seeds])
    draws = (generator(0, "sampling/label", seed).integers(num_classes) for seed in seeds)
    return torch.tensor([int(label) for label in draws])


def seed_noise(
    seeds: Sequence[int],
    shape: tuple[int, ...],
    device: torch.device,
    purpose: str = "sampling/noise",
) -> torch.Tensor:
    """Standard normal float32 [N, *shape]; row i depends on seeds[i] and `purpose` alone."""
    return normals(0, purpose, torch.tensor(seeds, device=device), shape)


def seed_churn(
    seeds: Sequence[int], shape: tuple[int, ...], sampling: Sampling, device: torch.device
) -> Churn:
    """Churn whose noise depends on the seed and the step alone."""
    numbers = torch.tensor(seeds, device=device)  # copied once, not in each step
    return Churn(
        sampling.churn,
        lambda step: normals(0, f"sampling/churn/{step}", numbers, shape),
        sampling.churn_interval,
        sampling.churn_noise,
    )


@dataclass(frozen=True)
class SampleBatch:
    """Samples of a batch of seeds.

    Attributes:
        seeds: N seeds.
        labels: their classes, int64 [N].
        samples: float32 [N, C, R, R] from the sampler; after decoding, images uint8 [N, 3, R, R].
    """

    seeds: Sequence[int]
    labels: torch.Tensor
    samples: torch.Tensor


def generate(
    denoise: ConditionalDenoise,
    seeds: Sequence[int],
    labels: torch.Tensor,
    shape: tuple[int, ...],
    sampling: Sampling,
    device: torch.device,
) -> Iterator[SampleBatch]:
    """Samples of all `seeds`, in batches of at most `sampling.batch`.

    Args:
        labels: the class of each seed, int64 [N], for example from `seed_labels`.
        shape: shape of one sample, [C, R, R].
    """
    for begin in range(0, len(seeds), sampling.batch):
        part = slice(begin, begin + sampling.batch)
        yield SampleBatch(
            seeds[part],
            labels[part],
            _sample(denoise, seeds[part], labels[part].to(device), shape, sampling, device),
        )


def _sample(
    denoise: ConditionalDenoise,
    seeds: Sequence[int],
    labels: torch.Tensor,
    shape: tuple[int, ...],
    sampling: Sampling,
    device: torch.device,
) -> torch.Tensor:
    samples: torch.Tensor = SAMPLERS[sampling.solver](
        lambda x, sigma: denoise(x, sigma, labels),
        seed_noise(seeds, shape, device),
        sampling.steps,
        sampling.sigma_min,
        sampling.sigma_max,
        sampling.rho,
        churn=seed_churn(seeds, shape, sampling, device),
        dtype=DTYPES[sampling.dtype],
    )
    return samples
