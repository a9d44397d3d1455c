"""The training loss, compared with its formula in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from edm2.diffusion import build_denoiser
from edm2.diffusion.loss import DenoisingLoss
from edm2.diffusion.objective import EdmObjective, loss_weight
from edm2.params.configs import CONFIGS


class FakeDenoiser(nn.Module):
    """D = 0.3·x + σ + label; u = sin σ."""

    objective = EdmObjective(CONFIGS["B"])

    def forward(self, x, sigma, labels):
        shift = sigma + (0 if labels is None else labels)
        return 0.3 * x + shift[:, None, None, None]

    def uncertainty(self, sigma):
        return sigma.sin()


@pytest.mark.parametrize("labels", [None, [1, 0, 2]])
def test_loss_and_weighted_error(labels):
    rng = np.random.default_rng(0)
    data, noise = rng.normal(size=(2, 3, 4, 5, 5)).astype(np.float32)
    sigma = np.array([0.05, 0.7, 9.0], np.float32)
    expected = []
    for i, s in enumerate(sigma.astype(np.float64)):
        shift = s + (0 if labels is None else labels[i])
        error = np.mean((0.3 * (data[i] + s * noise[i]) + shift - data[i]) ** 2)
        weighted = (s**2 + 0.25) / (s * 0.5) ** 2 * error
        expected.append((weighted / np.exp(np.sin(s)) + np.sin(s), weighted))
    labels = None if labels is None else torch.tensor(labels)
    losses = DenoisingLoss(FakeDenoiser())(*map(torch.from_numpy, (data, noise, sigma)), labels)
    np.testing.assert_allclose(torch.stack(losses, 1).numpy(), expected, rtol=1e-4)


def test_loss_weight():
    """λ = (σ² + ¼)/(σ/2)²: 8 at σ = ½, 5 at 1, and 4 in the limit of large σ."""
    weight = loss_weight(torch.tensor([0.5, 1.0, 1e4]))
    torch.testing.assert_close(weight, torch.tensor([8.0, 5.0, 4.0]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", ["A", "B", "G"])
def test_untrained_denoisers_have_loss_1_at_every_noise_level(config):
    """The weighted error, on data from N(0, ½²)."""
    torch.manual_seed(0)
    denoiser = build_denoiser(
        config, channels=8, resolution=32, channel_mult=(1,), res_blocks=1, num_classes=0
    )
    sigma = torch.tensor([0.01, 0.2, 1.0, 30.0]).repeat_interleave(4)
    data, noise = 0.5 * torch.randn(16, 4, 32, 32), torch.randn(16, 4, 32, 32)
    with torch.no_grad():
        _, weighted = DenoisingLoss(denoiser)(data, noise, sigma, None)
    torch.testing.assert_close(weighted.reshape(4, 4).mean(1), torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_owns_all_parameters_of_the_denoiser(config):
    """Data parallelism synchronizes the parameters of the module that it wraps."""
    denoiser = build_denoiser(config, channels=8, resolution=8, channel_mult=(1,), res_blocks=1)
    owned = {name for name, _ in DenoisingLoss(denoiser).named_parameters()}
    assert owned == {f"denoiser.{name}" for name, _ in denoiser.named_parameters()}
    assert ("denoiser.head.linear.weight" in owned) == (config != "A")
