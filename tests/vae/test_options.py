"""Every field of `vae` has an effect: changing it alone changes the trained network.

Both networks start from the same tensors where both have them, so that the difference does not come
from the order of random numbers.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from tiny import ROOT
from tiny_autoencoder import BATCH, CPU, FULL_VAE, RUNTIME, make_task, vae_params
from torch import nn

from edm2.data.images import ImageShards
from edm2.params.loading import fields
from edm2.params.vae import Vae
from edm2.vae.batches import batches
from edm2.vae.training import VaeTask

pytestmark = pytest.mark.slow

STEPS = 4
BASE = {**FULL_VAE, "duration_nimg": STEPS * BATCH, "warmup_nimg": 2 * BATCH}
CHANGED: dict[str, Any] = {
    "images.min_area": 0.3,
    "images.flip": 1.0,
    "channels": 16,
    "channel_mult": (2, 2),
    "res_blocks": 2,
    "latent_channels": 8,
    "norm_groups": 1,
    "attention": False,
    "attention_heads": 2,
    "quant_convolutions": True,
    "wavelet": True,
    "high_resolution": True,
    "variance": 0.1,
    "clamp": 0.05,
    "losses.perceptual": 0.2,
    "losses.adversarial": 0.2,
    "losses.pooled": 0.0,
    "losses.low_pass": 0.0,
    "losses.mse": 0.0,
    "losses.kl": 5.0,
    "losses.pool": 4,
    "losses.gradient_normalization": False,
    "losses.flip": 1.0,
    "adversarial.channels": 8,
    "adversarial.trainable_backbone": True,
    "adversarial.loss": "bce",
    "adversarial.generator_loss": "hinge",
    "adversarial.lecam": 1.0,
    "adversarial.lr": 0.01,
    "adversarial.discriminator_nimg": BATCH,
    "adversarial.generator_nimg": 2 * BATCH,
    "equivariance.flip": 0.0,
    "equivariance.flip_channels": 2,
    "equivariance.crop": 0.0,
    "equivariance.scale": 0.0,
    "equivariance.min_scale": 0.6,
    "batch": 4,
    "duration_nimg": 2 * STEPS * BATCH,
    "lr": 0.01,
    "lr_input": 0.01,
    "lr_input_layers": "both",
    "weight_decay": 1.0,
    "warmup_nimg": 3 * BATCH,
}
# generator_nimg must not be below discriminator_nimg
START = {
    "adversarial.discriminator_nimg": {"adversarial.generator_nimg": BATCH},
    "high_resolution": {
        "equivariance.crop": 0.0
    },  # latents of 2 pixels, whose crops cannot be smaller
    "equivariance.min_scale": {"equivariance.crop": 0.0},
    "losses.pool": {"equivariance.scale": 0.0},  # else smaller than 4×4 pixels
}
TESTED_ELSEWHERE = {
    "seed": "tests/vae/test_step.py",
    "init.path": "tests/vae/test_initialization.py",
    "init.parts": "tests/vae/test_initialization.py",
    "images.shards": "tests/stages/test_sources.py",
    "images.held_out": "tests/stages/test_sources.py",
    "backbone": "tests/stages/test_codecs.py",
    "backbone_path": "tests/stages/test_codecs.py",
    "detector": "tests/pipeline/test_reconstruction_distance.py",
    "detector_path": "tests/pipeline/test_reconstruction_distance.py",
    "log_nimg": "tests/stages/test_vae.py",
    "evaluate_nimg": "tests/stages/test_vae.py",
    "evaluate_images": "tests/pipeline/test_reconstruction_distance.py",
    "ema.ema_lengths": "tests/pipeline/test_vae_averages.py",
    "ema.snapshot_nimg": "tests/pipeline/test_vae_averages.py",
    "ema.evaluate_lengths": "tests/pipeline/test_vae_averages.py",
    "ema.length": "tests/pipeline/test_vae_averages.py",
    "microbatch": "tests/vae/test_step.py",  # it must not have an effect
}


def trained(images: ImageShards, start: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Reconstructions and latents after some steps, and the tensors that the training started from."""
    params = vae_params(BASE, changes)
    task = make_task(params)
    perturb(task.discriminator_task.discriminator)
    before = tensors(task)
    if start is not None:
        common = {k for k in before.keys() & start.keys() if before[k].shape == start[k].shape}
        before |= {k: start[k] for k in common}
        for name, module in modules(task).items():
            module.load_state_dict({k: before[f"{name}.{k}"] for k in module.state_dict()})
    stream = batches(images, params, 1, RUNTIME, CPU)(0)
    for step, batch in enumerate(islice(stream, STEPS), 1):
        task.step(batch, step * params.batch)
    with torch.no_grad():
        pixels = images.batch(range(4))[0] / 127.5 - 1
        return torch.cat([x.flatten() for x in task.network(pixels, noise_for(params))]), before


def noise_for(params: Vae) -> torch.Tensor:
    side = 8 // params.downscale
    return torch.ones(4, params.latent_channels, side, side)


def modules(task: VaeTask) -> dict[str, nn.Module]:
    return {"network": task.network, "discriminator": task.discriminator_task.discriminator}


def tensors(task: VaeTask) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name, module in modules(task).items()
        for key, tensor in module.state_dict().items()
    }


def perturb(discriminator: nn.Module) -> None:
    """Add noise to the parameters, so that scores are not zero in the first step."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def differ(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the difference exceeds the rounding of float32."""
    if actual.shape != expected.shape:
        return True
    return float((actual - expected).norm() / expected.norm()) > 1e-4


def test_every_field_is_tested() -> None:
    leaves = {key for key, _ in fields(Vae)} - {
        "init",
        "images",
        "losses",
        "adversarial",
        "equivariance",
        "ema",
    }
    assert {*CHANGED} | {*TESTED_ELSEWHERE} == leaves
    assert not CHANGED.keys() & TESTED_ELSEWHERE.keys()
    for key, path in TESTED_ELSEWHERE.items():
        assert key.rpartition(".")[2] in (ROOT / path).read_text(), (key, path)


@pytest.fixture(scope="module")
def unchanged() -> Callable[..., Any]:
    """unchanged(images, base): as `trained`, once for each base; training again gives the same bits."""
    results: dict[Any, Any] = {}

    def get(images: ImageShards, base: dict[str, Any]) -> Any:
        key = tuple(base.items())
        if key not in results:
            expected, start = trained(images, **base)
            again, _ = trained(images, start, **base)
            assert torch.equal(again, expected)
            results[key] = expected, start
        return results[key]

    return get


@pytest.mark.parametrize("field", CHANGED)
def test_a_field_changed_alone_changes_the_network(
    images: ImageShards, unchanged: Callable[..., Any], field: str
) -> None:
    """An unchanged field changes nothing."""
    base = START.get(field, {})
    expected, start = unchanged(images, base)
    changed, _ = trained(images, start, **{**base, field: CHANGED[field]})
    assert differ(changed, expected)
