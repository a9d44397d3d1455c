"""Training steps on a GPU."""

import pytest
import torch

from edm2.diffusion import build_denoiser
from edm2.diffusion.hyperparameters import hyperparameters
from edm2.diffusion.training import DenoiserTask
from edm2.ema import PowerEMA
from edm2.params import load


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("config", list("ABCDEFG"))
def test_steps_on_a_gpu_have_finite_losses_and_gradients(config, precision, compiled):
    params, device = load("params.yaml").diffusion, torch.device("cuda")
    denoiser = build_denoiser(
        config, channels=64, resolution=16, num_classes=10, blocks=1, dtype=precision
    ).to(device)
    average = PowerEMA(denoiser.unet, [0.05])
    hyper = hyperparameters(config, params)
    task = DenoiserTask(denoiser, average, params, hyper, 0, device, compiled)
    draw = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(8, 4, 16, 16, generator=draw) for _ in range(2))
    batch = (data * 0.5, noise, torch.linspace(-4, 2, 8), torch.arange(8))
    for step in (1, 2):
        metrics = task.step(batch, step * params.batch)
        assert torch.isfinite(metrics["train/loss"])
        assert metrics["train/nonfinite_gradients"] == 0
