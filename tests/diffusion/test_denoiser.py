"""The denoiser: preconditioning, labels, and every config at a tiny size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_denoiser import perturb
from torch import nn

from edm2.diffusion import Denoiser, build_denoiser
from edm2.diffusion.denoiser import Uncertainty
from edm2.diffusion.layers import Layer
from edm2.params.configs import CONFIGS

SIGMA = torch.tensor([0.002, 0.3, 1.0, 80.0])


def tiny(config, num_classes=3, **changes):
    shape = {
        "resolution": 8,
        "channel_mult": (1, 2),
        "res_blocks": 1,
        "attention_resolutions": (4,),
    }
    return build_denoiser(config, channels=16, num_classes=num_classes, **{**shape, **changes})


def perturbed(config, **changes):
    """A tiny denoiser of which every path carries a signal."""
    return perturb(tiny(config, **changes), 0.3).eval()


def noisy():
    """Noisy data of the magnitudes that it has at SIGMA."""
    return torch.randn(4, 4, 8, 8) * (SIGMA.square() + 0.25).sqrt()[:, None, None, None]


class Recorder(nn.Module):
    """A fake raw network: records its arguments and returns a fixed output."""

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.shape = SimpleNamespace(num_classes=3)

    def forward(self, x, c_noise, labels):
        self.args = x, c_noise, labels
        return self.output


def test_preconditioning():
    """EDM Table 1 in NumPy, around a network with a known output."""
    denoiser, x, raw = tiny("G"), noisy(), torch.randn(4, 4, 8, 8)
    denoiser.unet = Recorder(raw)
    denoised = denoiser(x, SIGMA, torch.tensor([2, 0, 1, 1])).numpy()
    s = SIGMA.double().numpy().reshape(4, 1, 1, 1)
    scaled, c_noise, labels = denoiser.unet.args
    np.testing.assert_allclose(scaled.numpy(), x.numpy() / np.sqrt(s**2 + 0.25), rtol=1e-5)
    np.testing.assert_allclose(c_noise.numpy(), np.log(s.ravel()) / 4, rtol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), np.eye(3)[[2, 0, 1, 1]])
    expected = x.numpy() * 0.25 / (s**2 + 0.25) + raw.numpy() * s * 0.5 / np.sqrt(s**2 + 0.25)
    np.testing.assert_allclose(denoised, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", ["A", "B", "G"])
def test_an_untrained_denoiser_is_the_skip_connection(config):
    """Zero output convolution (A, B) or zero output gain (G): D = c_skip·x."""
    x = noisy()
    denoised = tiny(config)(x, SIGMA, torch.tensor([0, 1, 2, 0]))
    c_skip = 0.25 / (SIGMA.square() + 0.25)
    torch.testing.assert_close(denoised, x * c_skip[:, None, None, None])


def test_all_activations_of_g_start_at_unit_magnitude():
    """Of the embedding and every block, up to what padded borders cost; with attention, which
    averages pixels, only in the first decoder block.
    """
    outputs = {}
    unet = build_denoiser(
        "G",
        channels=64,
        resolution=32,
        channel_mult=(1, 2),
        res_blocks=2,
        attention_resolutions=(),
        num_classes=10,
    ).unet
    modules = {"embedding": unet.map, **unet.enc, **{f"dec-{k}": m for k, m in unet.dec.items()}}
    for name, module in modules.items():
        module.register_forward_hook(lambda _, args, out, name=name: outputs.__setitem__(name, out))
    c_noise = torch.linspace(-1.5, 1.1, 8)
    with torch.no_grad():
        unet(torch.randn(8, 4, 32, 32), c_noise, torch.eye(10)[:8])
    assert outputs.keys() == modules.keys()
    for name, out in outputs.items():
        assert float(out.square().mean().sqrt()) == pytest.approx(1, abs=0.15), name


@pytest.mark.parametrize("config", CONFIGS)
def test_forward_and_backward_of_each_config(config):
    """Every parameter has a gradient that is finite and not all zero."""
    denoiser = perturbed(config).train()
    denoised = denoiser(noisy(), SIGMA, torch.tensor([0, 1, 2, 0]))
    assert denoised.shape == (4, 4, 8, 8)
    (denoised.square().sum() + denoiser.uncertainty(SIGMA).sum()).backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.ne(0).any(), name


@pytest.mark.parametrize("config", CONFIGS)
def test_labels_may_be_indices_or_one_hot_or_none(config):
    denoiser, x, labels = perturbed(config), noisy(), torch.tensor([0, 1, 2, 0])
    by_index = denoiser(x, SIGMA, labels)
    torch.testing.assert_close(by_index, denoiser(x, SIGMA, torch.eye(3)[labels]))
    assert not torch.allclose(by_index, denoiser(x, SIGMA, (labels + 1) % 3), atol=1e-3)
    torch.testing.assert_close(denoiser(x, SIGMA), denoiser(x, SIGMA, torch.zeros(4, 3)))


@pytest.mark.parametrize("config", CONFIGS)
def test_an_unconditional_network_ignores_labels(config):
    denoiser, x = perturbed(config, num_classes=0), noisy()
    assert not [name for name, _ in denoiser.named_parameters() if "label" in name]
    assert torch.equal(denoiser(x, SIGMA), denoiser(x, SIGMA, torch.tensor([0, 1, 2, 0])))


def test_output_with_sixteen_bit_activations_is_float32_and_close():
    full = perturbed("G")
    half = Denoiser(full.config, full.unet.shape, torch.bfloat16).eval()
    half.load_state_dict(full.state_dict())
    x, labels = noisy(), torch.tensor([0, 1, 2, 0])
    denoised, expected = half(x, SIGMA, labels), full(x, SIGMA, labels)
    assert denoised.dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert (denoised - expected).norm() / expected.norm() < 0.03
    assert not torch.equal(denoised, expected)


def test_images_of_a_batch_do_not_influence_each_other():
    for config in CONFIGS:
        denoiser, x, labels = perturbed(config), noisy(), torch.tensor([0, 1, 2, 0])
        alone = torch.cat(
            [denoiser(x[i : i + 1], SIGMA[i : i + 1], labels[i : i + 1]) for i in range(4)]
        )
        torch.testing.assert_close(denoiser(x, SIGMA, labels), alone, rtol=1e-3, atol=1e-4)


def test_uncertainty_is_learned_from_b_on():
    u = {config: perturbed(config).uncertainty(SIGMA) for config in CONFIGS}
    assert u.pop("A").eq(0).all()
    for config, values in u.items():
        assert values.shape == (4,), config
        assert values.unique().numel() == 4, config


def test_the_uncertainty_of_b_learns_a_dip():
    """Of 2 nats, in 400 steps at 1e-2, as far as 20,000 at 2e-4. With positional features the error
    stays above 0.4.
    """
    torch.manual_seed(0)
    ln_sigma = torch.linspace(-3.4, 2.6, 128)  # N(−0.4, 1) within three standard deviations
    dip = -2 * torch.exp(-0.5 * (ln_sigma + 0.4) ** 2)
    head = Uncertainty(CONFIGS["B"])
    adam = torch.optim.Adam(head.parameters(), lr=1e-2, fused=True)
    for _ in range(400):
        loss = (head(ln_sigma / 4) - dip).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert float(loss.detach().sqrt()) < 0.01


def test_force_norms_reaches_every_layer():
    """All weights, also in the uncertainty head; gains do not change."""
    denoiser = perturbed("G")
    gains = {n: p.detach().clone() for n, p in denoiser.named_parameters() if p.ndim == 0}
    denoiser.force_norms()
    for name, layer in denoiser.named_modules():
        if isinstance(layer, Layer):
            power = layer.weight.detach().flatten(1).square().mean(1)
            torch.testing.assert_close(power, torch.ones_like(power), rtol=1e-2, atol=0, msg=name)
    assert gains
    assert all(torch.equal(denoiser.get_parameter(n), value) for n, value in gains.items())


def test_the_scale_of_weights_has_no_effect_from_d_on():
    x, labels = noisy(), torch.tensor([0, 1, 2, 0])
    for config in CONFIGS:
        denoiser = perturbed(config)
        original = denoiser(x, SIGMA, labels)
        with torch.no_grad():
            for parameter in (p for p in denoiser.parameters() if p.ndim > 1):
                parameter.mul_(4)
        close = torch.allclose(original, denoiser(x, SIGMA, labels), rtol=2e-2, atol=2e-2)
        assert close == (config in "DEFG"), config


@pytest.mark.parametrize(
    ("config", "size", "dropout", "expected"),
    [
        ("A", "S", None, 0.1),
        ("G", "S", None, 0.0),
        ("G", "M", None, 0.1),
        ("G", None, None, 0.0),
        ("A", "S", 0.0, 0.0),
        ("G", "S", 0.3, 0.3),
    ],
)
def test_dropout_depends_on_config_size_and_argument(config, size, dropout, expected):
    with torch.device("meta"):
        denoiser = build_denoiser(config, size, dropout=dropout, channel_mult=(1,), res_blocks=1)
    assert denoiser.config.dropout == expected
