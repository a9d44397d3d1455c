"""Attention and residual blocks."""

import numpy as np
import pytest
import torch

from edm2.diffusion.blocks import Attention, Block
from edm2.diffusion.ladder import LADDER


def randomized(module):
    """No zero parameters, so that every path carries a signal."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def magnitude(x):
    return float(x.double().square().mean().sqrt())


def array(tensor):
    return tensor.detach().double().numpy()


def conv1x1(layer, x, normalized):
    """A 1×1 convolution in NumPy, [N, C, P] → [N, D, P]."""
    w = array(layer.weight)[:, :, 0, 0]
    if normalized:
        w = w / (1e-4 + np.sqrt((w**2).mean(1, keepdims=True))) / np.sqrt(w.shape[1])
    y = np.einsum("dc,ncp->ndp", w, x)
    return y if layer.bias is None else y + array(layer.bias)[:, None]


def group_norm(norm, x):
    """The baseline's group norm in NumPy, over groups of 4 channels."""
    n, c, p = x.shape
    grouped = x.reshape(n, c // 4, 4 * p)
    centred = grouped - grouped.mean(2, keepdims=True)
    unit = (centred / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)).reshape(n, c, p)
    return unit * array(norm.weight)[:, None] + array(norm.bias)[:, None]


@pytest.mark.parametrize("config", ["A", "G"])
def test_attention_equals_an_explicit_softmax(config):
    """Two heads; q, k, v interleaved, and normalized per head and pixel in cosine attention."""
    ladder, channels = LADDER[config], 128
    attention, x = randomized(Attention(ladder, channels)), 2 * torch.randn(3, channels, 4, 5)
    pixels = array(x).reshape(3, channels, 20)
    cosine = config == "G"
    y = conv1x1(attention.qkv, pixels if cosine else group_norm(attention.norm, pixels), cosine)
    parts = y.reshape(3, 2, 64, 3, 20)  # [N, heads, channels, q k v, pixels]
    if cosine:
        parts = parts / (1e-4 + np.sqrt((parts**2).mean(2, keepdims=True)))
    q, k, v = (parts[:, :, :, i] for i in range(3))
    logits = np.einsum("nhcq,nhck->nhqk", q, k) / 8  # √64
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("nhqk,nhck->nhcq", weights, v).reshape(3, channels, 20)
    y = conv1x1(attention.proj, y, cosine)
    expected = (0.7 * pixels + 0.3 * y) / np.sqrt(0.58) if cosine else pixels + y
    found = array(attention(x)).reshape(3, channels, 20)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_heads_have_64_channels():
    heads = [Attention(LADDER["G"], channels).heads for channels in (16, 64, 128, 192)]
    assert heads == [1, 1, 2, 3]


@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
@pytest.mark.parametrize(
    ("flavor", "resample", "channels_in"),
    [("enc", "keep", 64), ("enc", "keep", 32), ("enc", "down", 64),
     ("dec", "keep", 96), ("dec", "keep", 64), ("dec", "up", 64)],
)  # fmt: skip
def test_g_blocks_preserve_unit_magnitude(flavor, resample, channels_in, scale):
    """Unit in, unit out for weights of any scale; the padded border costs a few per cent."""
    block = Block(LADDER["G"], channels_in, 64, 32, flavor=flavor, resample=resample)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(scale)
        y = block(torch.randn(4, channels_in, 32, 32), torch.randn(4, 32))
    side = {"keep": 32, "down": 16, "up": 64}[resample]
    assert y.shape == (4, 64, side, side)
    assert magnitude(y) == pytest.approx(1, abs=0.06)


def test_encoder_blocks_of_g_forget_the_scale_of_their_input():
    """Pixel norm on the main path; decoder blocks have none."""
    x, embedding = torch.randn(2, 32, 8, 8), torch.randn(2, 16)
    for flavor, same in (("enc", True), ("dec", False)):
        block = Block(LADDER["G"], 32, 32, 16, flavor=flavor).eval()
        close = torch.allclose(block(x, embedding), block(3 * x, embedding), rtol=1e-2, atol=1e-3)
        assert close == same, flavor


@pytest.mark.parametrize("config", LADDER)
def test_activations_are_clamped(config):
    """±256 at the end of each block, reached from both sides."""
    block = Block(LADDER[config], 16, 16, 8, flavor="dec", attention=True).eval()
    y = block(1e5 * torch.randn(2, 16, 4, 4), torch.randn(2, 8)).detach()
    assert float(y.min()) == -256
    assert float(y.max()) == 256


def test_block_of_the_baseline_equals_the_adm_block():
    """GroupNorm → SiLU → down → conv → GroupNorm → scale, shift → SiLU → conv, plus 1×1 skip."""
    functional = torch.nn.functional
    block = randomized(Block(LADDER["A"], 16, 32, 8, flavor="enc", resample="down", dropout=0.1))
    x, embedding = torch.randn(2, 16, 8, 8), torch.randn(2, 8)
    half = x.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    silu = functional.silu(functional.group_norm(x, 4, block.norm0.weight, block.norm0.bias, 1e-5))
    y = silu.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    y = functional.conv2d(y, block.conv0.weight, block.conv0.bias, padding=1)
    y = functional.group_norm(y, 8, block.norm1.weight, block.norm1.bias, 1e-5)
    affine = block.conditioning.affine
    values = (embedding @ affine.weight.T + affine.bias)[:, :, None, None]
    y = functional.silu(y * (1 + values[:, :32]) + values[:, 32:])
    y = functional.conv2d(y, block.conv1.weight, block.conv1.bias, padding=1)
    skip = functional.conv2d(half, block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x, embedding), skip + y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flavor", ["enc", "dec"])
def test_block_of_g_equals_its_formula(flavor):
    """Encoder: 1×1, pixel norm, branch. Decoder: branch, 1×1. Both: MP-sum of 0.7 and 0.3."""
    functional = torch.nn.functional
    block = randomized(Block(LADDER["G"], 16, 32, 8, flavor=flavor))
    x, embedding = torch.randn(2, 16, 8, 8), torch.randn(2, 8)

    def conv(layer, x):
        w = layer.weight.flatten(1)
        w = w / (1e-4 + w.square().mean(1, keepdim=True).sqrt()) / w.shape[1] ** 0.5
        return functional.conv2d(x, w.reshape(layer.weight.shape), padding="same")

    def silu(x):
        return x * torch.sigmoid(x) / 0.596

    main, start = conv(block.skip, x), x
    if flavor == "enc":
        main = start = main / (1e-4 + main.square().mean(1, keepdim=True).sqrt())
    affine, gain = block.conditioning.affine.weight, block.conditioning.gain
    unit = affine / (1e-4 + affine.square().mean(1, keepdim=True).sqrt()) / 8**0.5
    scale = 1 + gain * (embedding @ unit.T)
    y = conv(block.conv1, silu(conv(block.conv0, silu(start)) * scale[:, :, None, None]))
    expected = (0.7 * main + 0.3 * y) / 0.58**0.5
    torch.testing.assert_close(block(x, embedding), expected, rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_alone():
    block = randomized(Block(LADDER["A"], 8, 8, 8, flavor="enc", dropout=0.5))
    x, embedding = torch.randn(1, 8, 4, 4), torch.randn(1, 8)
    assert torch.equal(block(x, embedding), block(x, embedding))
    block.train()
    assert not torch.equal(block(x, embedding), block(x, embedding))
