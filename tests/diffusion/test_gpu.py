"""Training steps on a GPU."""

import pytest
import torch
from tiny_denoiser import perturb

from edm2.diffusion import build_denoiser
from edm2.diffusion.training import DenoiserTask
from edm2.ema import PowerEMA
from edm2.params import load
from edm2.params.resolution import resolve

CUDA = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make_task(config, precision, compiled, **changes):
    """A task that measures magnitudes at its second step."""
    params = load("params.yaml").diffusion.of(config)
    params = params.model_copy(update={"magnitudes_nimg": 2 * params.batch, **changes})
    torch.manual_seed(0)
    denoiser = build_denoiser(
        resolve(config, params),
        channels=64,
        resolution=16,
        num_classes=10,
        res_blocks=1,
        dropout=changes.get("dropout"),
        dtype=precision,
    ).to(CUDA)
    return DenoiserTask(denoiser, PowerEMA(denoiser.unet, [0.05]), params, 0, CUDA, compiled)


def make_batch():
    rng = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(8, 4, 16, 16, generator=rng) for _ in range(2))
    return data * 0.5, noise, torch.linspace(-4, 2, 8), torch.arange(8)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("config", list("ABCDEFG"))
def test_steps_on_a_gpu_have_finite_losses_gradients_and_magnitudes(config, precision, compiled):
    task = make_task(config, precision, compiled)
    for step in (1, 2):
        metrics = task.step(make_batch(), step * task.params.batch)
        assert torch.isfinite(metrics["train/loss"])
        assert metrics["train/nonfinite_gradients"] == 0
    magnitudes = {key: value for key, value in metrics.items() if "/dec-16x16" in key}
    assert len(magnitudes) == 6
    assert all(torch.isfinite(value) for value in magnitudes.values())


@pytest.mark.parametrize("compiled", [False, True])
def test_microbatches_on_a_gpu_give_the_gradients_of_the_whole_batch(compiled):
    gradients = []
    for microbatch in (None, 4):
        task = make_task("G", "fp32", compiled, microbatch=microbatch, dropout=0.0)
        perturb(task.denoiser)  # gains of zero let no gradients through
        task.step(make_batch(), task.params.batch)
        gradients.append({name: p.grad for name, p in task.denoiser.named_parameters()})
    whole, parts = gradients
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(parts[name], gradient, rtol=1e-2, atol=1e-2 * scale)
