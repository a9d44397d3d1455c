"""Blocks and networks of every config, compared with slow, plain NumPy written from the paper's text.

Here each change of Table 1 is stated by the names of the configs that have it. The NumPy functions
pop the tensors that they use from `w`; a tensor that is left over fails the test.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_denoiser import diffusion_params, make_denoiser, perturb

from edm2.diffusion.blocks import Block
from edm2.params.configs import CONFIGS

pytestmark = pytest.mark.slow


def silu(config, x):
    return x / (1 + np.exp(-x)) / (0.596 if config == "G" else 1)


def mp_sum(config, a, b, t):
    if config != "G":
        return a + b
    return ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)


def unit(x, axis):
    return x / (1e-4 + np.sqrt((x**2).mean(axis, keepdims=True)))


def layer(config, w, name, x, gain=1.0, bias=True):
    """A linear map of [N, C], or a convolution of [N, C, H, W] that keeps H and W."""
    weight = w.pop(f"{name}.weight")
    if config in "DEFG":
        rows = weight.reshape(len(weight), -1)
        weight = gain * unit(rows, 1).reshape(weight.shape) / np.sqrt(rows.shape[1])
    if weight.ndim == 2:
        y = x @ weight.T
    else:
        k, (height, width) = weight.shape[-1], x.shape[2:]
        padded = np.pad(x, [(0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)])
        y = sum(
            np.einsum(
                "oi,nihw->nohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width]
            )
            for i in range(k)
            for j in range(k)
        )
    if config in "AB" and bias:
        y = y + w.pop(f"{name}.bias").reshape(-1, *[1] * (x.ndim - 2))
    return y


def group_norm(config, w, name, x):
    """32 groups or fewer of at least 4 channels; no mean subtraction in C to E, no norm in F and G."""
    if config in "FG":
        return x
    grouped = x.reshape(len(x), min(32, x.shape[1] // 4), -1)
    if config in "CDE":
        return (grouped / np.sqrt((grouped**2).mean(2, keepdims=True) + 1e-4)).reshape(x.shape)
    centered = grouped - grouped.mean(2, keepdims=True)
    y = (centered / np.sqrt((centered**2).mean(2, keepdims=True) + 1e-5)).reshape(x.shape)
    scale, shift = (w.pop(f"{name}.{kind}")[:, None, None] for kind in ("weight", "bias"))
    return y * scale + shift


def resampled(x, resample):
    if resample == "up":
        return x.repeat(2, 2).repeat(2, 3)
    if resample == "down":
        return (
            x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
        ) / 4
    return x


def attention(config, w, name, x):
    """Heads of 64 channels; in a head, q, k and v of each channel are neighbors."""
    n, c, height, width = x.shape
    heads, size = max(1, c // 64), min(c, 64)
    y = group_norm(config, w, f"{name}.norm", x) if config in "AB" else x
    y = layer(config, w, f"{name}.qkv", y).reshape(n, heads, size, 3, height * width)
    q, k, v = (y[:, :, :, i] for i in range(3))
    if config in "CDEFG":
        q, k, v = (unit(part, 2) for part in (q, k, v))
    out = np.zeros_like(v)
    for i in range(height * width):
        logits = (q[:, :, :, i : i + 1] * k).sum(2) / np.sqrt(size)
        weights = np.exp(logits - logits.max(2, keepdims=True))
        weights /= weights.sum(2, keepdims=True)
        out[:, :, :, i] = (weights[:, :, None] * v).sum(3)
    y = layer(config, w, f"{name}.proj", out.reshape(x.shape))
    return mp_sum(config, x, y, 0.3)


def block(config, w, name, x, embedding, part, resample, has_attention):
    def skip(x):
        return layer(config, w, f"{name}.skip", x) if f"{name}.skip.weight" in w else x

    if config in "FG":
        x = resampled(x, resample)
    if config in "FG" and part == "enc":
        x = unit(skip(x), 1)
    y = silu(config, group_norm(config, w, f"{name}.norm0", x))
    if config not in "FG":
        x, y = resampled(x, resample), resampled(y, resample)
    if not (config in "FG" and part == "enc"):
        x = skip(x)
    y = layer(config, w, f"{name}.conv0", y)
    y = group_norm(config, w, f"{name}.norm1", y)
    gain = w.pop(f"{name}.conditioning.gain") if config == "G" else 1.0
    affine = layer(config, w, f"{name}.conditioning.affine", embedding, gain)[:, :, None, None]
    if config in "AB":
        scale, shift = affine[:, : y.shape[1]], affine[:, y.shape[1] :]
        y = y * (1 + scale) + shift
    else:
        y = y * (1 + affine)
    y = layer(config, w, f"{name}.conv1", silu(config, y))
    x = mp_sum(config, x, y, 0.3)
    if has_attention:
        x = attention(config, w, f"{name}.attention", x)
    return np.clip(x, -256, 256)


def embed(config, w, c_noise, labels):
    """Features of 8 channels → Linear → SiLU → Linear until E; one Linear from F on."""
    if config in "AB":
        angles = c_noise[:, None] * 10000 ** (-np.arange(4) / 4)
        x = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    else:  # the tensors contain the factor 2π
        freqs, phases = w.pop("map.features.freqs"), w.pop("map.features.phases")
        x = np.cos(c_noise[:, None] * freqs + phases) * (np.sqrt(2) if config == "G" else 1)
    x = layer(config, w, "map.layer0", x)
    if config in "ABCDE":
        x = layer(config, w, "map.layer1", x / (1 + np.exp(-x)))
    scale = 1 if config in "AB" else np.sqrt(labels.shape[1])
    x = mp_sum(config, x, layer(config, w, "map.label", labels * scale, bias=False), 0.5)
    return silu(config, x)


NETWORK = [  # 8×8, then 4×4 with attention: name, resampling, whether it has attention
    ("enc.8x8-block0", "keep", False),
    ("enc.4x4-down", "down", False),
    ("enc.4x4-block0", "keep", True),
    ("dec.4x4-in0", "keep", True),
    ("dec.4x4-in1", "keep", False),
    ("dec.4x4-block0", "keep", True),
    ("dec.4x4-block1", "keep", True),
    ("dec.8x8-up", "up", False),
    ("dec.8x8-block0", "keep", False),
    ("dec.8x8-block1", "keep", False),
]


def network(config, w, x, c_noise, labels):
    embedding = embed(config, w, c_noise, labels)
    if config not in "AB":
        x = np.concatenate([x, np.ones_like(x[:, :1])], 1)
    x = layer(config, w, "enc.8x8-conv", x)
    skips = [x]
    for name, resample, has_attention in NETWORK:
        if name.startswith("dec") and "block" in name:
            skip = skips.pop()
            if config == "G":  # √(N/½)·½/√Nₐ
                count = x.shape[1] + skip.shape[1]
                x, skip = (part * np.sqrt(count / part.shape[1] / 2) for part in (x, skip))
            x = np.concatenate([x, skip], 1)
        x = block(config, w, name, x, embedding, name[:3], resample, has_attention)
        if name.startswith("enc"):
            skips.append(x)
    assert not skips
    x = group_norm(config, w, "out_norm", x)
    if config in "ABCDE":
        x = silu(config, x)
    return layer(config, w, "out_conv", x, w.pop("out_gain") if config == "G" else 1.0)


def tensors(module, prefix=""):
    return {f"{prefix}{k}": v.detach().double().numpy() for k, v in module.state_dict().items()}


def check(output, expected, unused):
    assert not unused
    expected = torch.from_numpy(expected).float()
    scale = float(expected.abs().max())
    torch.testing.assert_close(output.detach(), expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("has_attention", [False, True], ids=["", "attention"])
@pytest.mark.parametrize("in_channels", [128, 160], ids=["", "skip"])
@pytest.mark.parametrize("resample", ["keep", "down", "up"])
@pytest.mark.parametrize("part", ["enc", "dec"])
@pytest.mark.parametrize("config", CONFIGS)
def test_blocks_equal_the_numpy_reference(config, part, resample, in_channels, has_attention):
    """With two attention heads (128 channels), and group norms of five channels (160)."""
    module = Block(
        replace(CONFIGS[config], dropout=0.3),
        in_channels,
        128,
        8,
        part=part,
        resample=resample,
        attention=has_attention,
    ).eval()
    perturb(module)
    x, embedding = 2 * torch.randn(2, in_channels, 4, 6) + 0.3, torch.randn(2, 8)
    w = tensors(module, "b.")
    arrays = (tensor.double().numpy() for tensor in (x, embedding))
    expected = block(config, w, "b", *arrays, part, resample, has_attention)
    check(module(x, embedding), expected, w)


@pytest.mark.parametrize("config", CONFIGS)
def test_networks_equal_the_numpy_reference(config):
    """Embedding, constant channel, skips in reverse order, output, and no other tensors."""
    unet = perturb(make_denoiser(config, diffusion_params()).unet).eval()
    x, c_noise = torch.randn(2, 4, 8, 8), torch.tensor([-0.4, 0.9])
    labels, w = torch.eye(3)[[2, 0]], tensors(unet)
    expected = network(config, w, *(a.double().numpy() for a in (x, c_noise, labels)))
    check(unet(x, c_noise, labels), expected, w)
