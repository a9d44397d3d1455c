"""What residual blocks do to magnitudes. test_numpy_reference.py tests their formulas."""

from dataclasses import replace

import pytest
import torch
from tiny_denoiser import perturb

from edm2.diffusion.blocks import Attention, Block
from edm2.params.configs import CONFIGS


def magnitude(x):
    return float(x.double().square().mean().sqrt())


def test_heads_have_64_channels():
    heads = [Attention(CONFIGS["G"], channels).heads for channels in (16, 64, 128, 192)]
    assert heads == [1, 1, 2, 3]


@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
@pytest.mark.parametrize(
    ("part", "resample", "in_channels"),
    [
        ("enc", "keep", 64),
        ("enc", "keep", 32),
        ("enc", "down", 64),
        ("dec", "keep", 96),
        ("dec", "keep", 64),
        ("dec", "up", 64),
    ],
)
def test_blocks_of_g_preserve_unit_magnitude(part, resample, in_channels, scale):
    """For weights of any scale, up to a few percent that the padded border costs."""
    block = Block(CONFIGS["G"], in_channels, 64, 32, part=part, resample=resample)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(scale)
        y = block(torch.randn(4, in_channels, 32, 32), torch.randn(4, 32))
    side = {"keep": 32, "down": 16, "up": 64}[resample]
    assert y.shape == (4, 64, side, side)
    assert magnitude(y) == pytest.approx(1, abs=0.06)


def test_output_of_encoder_blocks_of_g_is_independent_of_input_scale():
    """They have a pixel norm on the main path; decoder blocks do not."""
    x, embedding = torch.randn(2, 32, 8, 8), torch.randn(2, 16)
    for part, independent in (("enc", True), ("dec", False)):
        block = Block(CONFIGS["G"], 32, 32, 16, part=part).eval()
        close = torch.allclose(block(x, embedding), block(3 * x, embedding), rtol=1e-2, atol=1e-3)
        assert close == independent, part


@pytest.mark.parametrize("config", CONFIGS)
def test_activations_are_clamped(config):
    """To ±256 at the end of each block."""
    block = Block(CONFIGS[config], 16, 16, 8, part="dec", attention=True).eval()
    y = block(1e5 * torch.randn(2, 16, 4, 4), torch.randn(2, 8)).detach()
    assert float(y.min()) == -256
    assert float(y.max()) == 256


@pytest.mark.parametrize("config", ["A", "G"])
def test_dropout_acts_only_in_training_on_the_input_of_the_second_convolution(config):
    """Half of the values become zero, the others twice as large."""
    block = Block(replace(CONFIGS[config], dropout=0.5), 64, 64, 8, part="enc")
    perturb(block, 0.3).eval()
    inputs = []
    block.conv1.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    x, embedding = torch.randn(2, 64, 16, 16), torch.randn(2, 8)
    block(x, embedding)
    block.train()(x, embedding)
    full, dropped = inputs
    zero = dropped == 0
    assert float(zero.float().mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(dropped[~zero], 2 * full[~zero])
