"""A tiny VAE and its training, without a project."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from edm2.features.classifier import Classifier
from edm2.params import load
from edm2.params.vae import Vae
from edm2.vae.batches import Batch
from edm2.vae.network import Autoencoder
from edm2.vae.training import VaeTask

CPU = torch.device("cpu")
RUNTIME = SimpleNamespace(workers=0, reading="random")  # batches are read by a thread
BATCH = 8
TINY: dict[str, Any] = {
    "channels": 8,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "latent_channels": 2,
    "batch": BATCH,
    "duration_nimg": 160,
    "log_nimg": 80,
    "warmup_nimg": 32,
    "evaluate_nimg": 80,
    "evaluate_images": None,
}
FULL_VAE: dict[str, Any] = {  # all losses from the start, transforms and flips
    **TINY,
    "latent_channels": 6,
    "attention": True,
    "variance": "learned",
    "clamp": 2.0,
    "warmup_nimg": BATCH,
    "lr": 0.02,
    "lr_input": 0.002,
    "losses.adversarial": 1.0,
    "losses.pooled": 0.5,
    "losses.low_pass": 0.5,
    "losses.mse": 0.5,
    "losses.kl": 0.05,
    "losses.flip": 0.5,
    "adversarial.channels": 4,
    "adversarial.lr": 0.05,
    "adversarial.lecam": 0.1,
    "adversarial.discriminator_nimg": 0,
    "adversarial.generator_nimg": 0,
    "equivariance.flip": 0.5,
    "equivariance.flip_channels": 1,
    "equivariance.crop": 0.5,
    "equivariance.scale": 0.5,
}


def vae_params(*changes: dict[str, Any], **more: Any) -> Vae:
    """The `vae` section of params.yaml with changes by key path; in keywords `__` means a dot."""
    tree = load(Path(__file__).parent.parent / "params.yaml").vae.model_dump()
    for key, value in {k: v for change in (*changes, more) for k, v in change.items()}.items():
        node, parts = tree, key.replace("__", ".").split(".")
        for part in parts[:-1]:
            node = node[part]
        assert parts[-1] in node, key
        node[parts[-1]] = value
    return Vae.model_validate(tree)


def make_backbone(resolution: int = 16) -> Classifier:
    """A classifier with random weights, the same in each call."""
    torch.manual_seed(1)
    classifier = Classifier(8, 2, 8, num_classes=2, resolution=resolution)
    return classifier.eval().requires_grad_(False)


def make_network(params: Vae) -> Autoencoder:
    """The same network in each call; no weights are so small that a layer has no effect."""
    torch.manual_seed(0)
    network = Autoencoder(params)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def make_task(params: Vae, dtype: torch.dtype = torch.float32, seed: int = 1) -> VaeTask:
    return VaeTask(make_network(params), params, make_backbone(), seed, CPU, dtype)


def steady(task: VaeTask) -> VaeTask:
    """Set Adam's ε above the rounding errors of gradients. They would otherwise decide the sign of
    steps where the gradient is zero.
    """
    for optimizer in (task.optimizer, task.discriminator_task.optimizer):
        for group in optimizer.param_groups:
            group["eps"] = 1e-3
    return task


def make_batch(params: Vae, step: int = 0, resolution: int = 16) -> Batch:
    """Images of smooth colors with some flat areas, and noise for their latents."""
    rng = torch.Generator().manual_seed(step)
    coarse = torch.rand(params.batch, 3, 3, 3, generator=rng) * 400 - 70
    smooth = nn.functional.interpolate(coarse, resolution, mode="bilinear", align_corners=True)
    side = resolution // params.downscale
    noise = torch.randn(params.batch, params.latent_channels, side, side, generator=rng)
    return smooth.clamp(0, 255).to(torch.uint8), noise


def floats(row: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a step."""
    return {name: float(value) for name, value in row.items()}


def copies(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [p.detach().clone() for p in parameters]


def same(a: Iterable[torch.Tensor], b: Iterable[torch.Tensor]) -> list[bool]:
    """For each pair of tensors, whether all bits are the same."""
    return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]


def images_of(batch: Batch) -> torch.Tensor:
    """The images of a batch in [-1, 1]."""
    return batch[0] / 127.5 - 1
