"""What residual blocks do to magnitudes; their formulas are in test_diffusion_restatement."""

from dataclasses import replace

import pytest
import torch

from edm2.diffusion.blocks import Attention, Block
from edm2.params.configs import CONFIGS


def randomized(module):
    """No zero parameters, so that every path carries a signal."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def magnitude(x):
    return float(x.double().square().mean().sqrt())


def test_heads_have_64_channels():
    heads = [Attention(CONFIGS["G"], channels).heads for channels in (16, 64, 128, 192)]
    assert heads == [1, 1, 2, 3]


@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
@pytest.mark.parametrize(
    ("flavor", "resample", "in_channels"),
    [
        ("enc", "keep", 64),
        ("enc", "keep", 32),
        ("enc", "down", 64),
        ("dec", "keep", 96),
        ("dec", "keep", 64),
        ("dec", "up", 64),
    ],
)
def test_g_blocks_preserve_unit_magnitude(flavor, resample, in_channels, scale):
    """Unit in, unit out for weights of any scale; the padded border costs a few per cent."""
    block = Block(CONFIGS["G"], in_channels, 64, 32, flavor=flavor, resample=resample)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(scale)
        y = block(torch.randn(4, in_channels, 32, 32), torch.randn(4, 32))
    side = {"keep": 32, "down": 16, "up": 64}[resample]
    assert y.shape == (4, 64, side, side)
    assert magnitude(y) == pytest.approx(1, abs=0.06)


def test_encoder_blocks_of_g_forget_the_scale_of_their_input():
    """Pixel norm on the main path; decoder blocks have none."""
    x, embedding = torch.randn(2, 32, 8, 8), torch.randn(2, 16)
    for flavor, same in (("enc", True), ("dec", False)):
        block = Block(CONFIGS["G"], 32, 32, 16, flavor=flavor).eval()
        close = torch.allclose(block(x, embedding), block(3 * x, embedding), rtol=1e-2, atol=1e-3)
        assert close == same, flavor


@pytest.mark.parametrize("config", CONFIGS)
def test_activations_are_clamped(config):
    """±256 at the end of each block, reached from both sides."""
    block = Block(CONFIGS[config], 16, 16, 8, flavor="dec", attention=True).eval()
    y = block(1e5 * torch.randn(2, 16, 4, 4), torch.randn(2, 8)).detach()
    assert float(y.min()) == -256
    assert float(y.max()) == 256


@pytest.mark.parametrize("config", ["A", "G"])
def test_dropout_acts_in_training_alone_on_what_the_second_convolution_sees(config):
    """Half of the values are gone, the others doubled."""
    block, seen = (
        randomized(Block(replace(CONFIGS[config], dropout=0.5), 64, 64, 8, flavor="enc")),
        [],
    )
    block.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    x, embedding = torch.randn(2, 64, 16, 16), torch.randn(2, 8)
    block(x, embedding)
    block.train()(x, embedding)
    whole, dropped = seen
    gone = dropped == 0
    assert float(gone.float().mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(dropped[~gone], 2 * whole[~gone])
