"""Seeds → noise and labels → samples. A sample depends on its seed alone."""

from collections.abc import Iterator

import torch

from edm2.params.evaluation import Sampling
from edm2.runtime.distributed import ranks
from edm2.runtime.randomness import normals
from edm2.sampling.guidance import ConditionalDenoise
from edm2.sampling.solver import Churn, euler, heun

SOLVERS = {"heun": heun, "euler": euler}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def seed_labels(seeds: range, num_classes: int) -> torch.Tensor:
    """int64 [N]: classes in turn, so that any run of seeds is balanced."""
    return torch.tensor([seed % num_classes for seed in seeds])


def seed_noise(
    seeds: range, shape: tuple[int, ...], purpose: str = "sampling/noise"
) -> torch.Tensor:
    """Standard normal float32 [N, *shape], row i of seeds[i] and the purpose alone."""
    return torch.from_numpy(normals(0, purpose, seeds, shape))


def seed_churn(seeds: range, shape: tuple[int, ...], sampling: Sampling) -> Churn:
    """Fresh noise, in each step that of the seed and the step alone."""
    return Churn(
        sampling.churn,
        lambda step: seed_noise(seeds, shape, f"sampling/churn/{step}"),
        sampling.churn_interval,
        sampling.churn_noise,
    )


def generate(
    denoise: ConditionalDenoise,
    seeds: range,
    shape: tuple[int, ...],
    num_classes: int,
    sampling: Sampling,
    device: torch.device,
) -> Iterator[tuple[range, torch.Tensor]]:
    """Samples in batches of at most `sampling.batch`; ranks take batches in turn.

    Returns:
        seeds of the batch and its samples float32 [N, *shape].
    """
    who = ranks()
    parts = [seeds[k : k + sampling.batch] for k in range(0, len(seeds), sampling.batch)]
    for part in parts[who.rank :: who.size]:
        labels = seed_labels(part, num_classes).to(device)
        noise = seed_noise(part, shape).to(device)
        yield part, SOLVERS[sampling.solver](
            lambda x, sigma, labels=labels: denoise(x, sigma, labels),  # type: ignore[misc]
            noise, sampling.steps, sampling.sigma_min, sampling.sigma_max, sampling.rho,
            churn=seed_churn(part, shape, sampling), dtype=DTYPES[sampling.dtype],
        )  # fmt: skip
