"""Layers, blocks and attention of the form for sampling: constant weights, and no gradients."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.blocks import CLAMP, RESIDUAL_BALANCE, Attention, Block
from edm2.diffusion.layers import Layer, downsample, mp_sum_shares, normalize, upsample


@dataclass(frozen=True)
class Form:
    """Precision and memory format of activations and weights."""

    dtype: torch.dtype
    memory_format: torch.memory_format


class InferenceBlock(nn.Module):
    """`Block` with constant weights, and without dropout."""

    def __init__(self, block: Block, form: Form) -> None:
        super().__init__()
        config = block.config
        mp = config.magnitude_preserving
        share, branch_share = mp_sum_shares(RESIDUAL_BALANCE) if mp else (1.0, 1.0)
        self.resample, self.pixel_norm = block.resample, config.pixel_norm
        self.normalizes_main_path = block.normalizes_main_path
        self.norm0, self.norm1 = copy.deepcopy(block.norm0), copy.deepcopy(block.norm1)
        self.conv0 = Convolution(block.conv0, form, upsamples=block.resample == "up")
        self.conv1 = Convolution(block.conv1, form, share=branch_share)
        self.skip, self.share = None, share
        if block.skip is not None:
            own = 1.0 if block.normalizes_main_path else share
            self.skip, self.share = Convolution(block.skip, form, share=own), share / own
        self.attention = (
            None if block.attention is None else InferenceAttention(block.attention, form)
        )

    def forward(
        self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None
    ) -> torch.Tensor:
        """x [N, in_channels, H, W]; scale and shift [N, out_channels, 1, 1]."""
        if self.pixel_norm and self.resample == "down":
            x = downsample(x)
        if self.normalizes_main_path:
            x = x if self.skip is None else self.skip(x)
            x = normalize(x, (1,))
        y = self._branch(x, scale, shift)
        if not self.pixel_norm and self.resample == "down":
            x = downsample(x)
        if not self.normalizes_main_path and self.skip is not None:
            x = self.skip(x)
        if self.resample == "up":
            x = upsample(x)
        y = y.add_(x, alpha=self.share)
        if self.attention is not None:
            y = self.attention(y)
        return y.clamp_(-CLAMP, CLAMP)

    def _branch(
        self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None
    ) -> torch.Tensor:
        """Upsampling is in `conv0`: norms and SiLU are the same before it as after it."""
        y = F.silu(x if self.norm0 is None else self.norm0(x))
        if not self.pixel_norm and self.resample == "down":
            y = downsample(y)
        y = self.conv0(y)
        y = (y if self.norm1 is None else self.norm1(y)).mul_(scale)
        if shift is not None:
            y = y.add_(shift)
        out: torch.Tensor = self.conv1(F.silu(y, inplace=True))
        return out


class InferenceAttention(nn.Module):
    """`Attention` on pixels with channels last: [N, HW, C].

    The output channels of `qkv` are ordered as [(q, k, v), heads, channels of a head].
    """

    def __init__(self, attention: Attention, form: Form) -> None:
        super().__init__()
        config, self.heads = attention.config, attention.heads
        mp = config.magnitude_preserving
        self.share, branch_share = mp_sum_shares(RESIDUAL_BALANCE) if mp else (1.0, 1.0)
        self.is_cosine, self.in_fp32 = config.attention == "cosine", config.attention_fp32
        self.norm = copy.deepcopy(attention.norm)
        self.qkv = Linear(attention.qkv, dtype=form.dtype)
        for tensor in self.qkv.buffers():
            rows = tensor.unflatten(0, (self.heads, -1, 3)).movedim(2, 0)
            tensor.copy_(rows.flatten(0, 2).clone())
        self.proj = Linear(attention.proj, share=branch_share, dtype=form.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        normed = x if self.norm is None else self.norm(x)
        qkv = self.qkv(normed.permute(0, 2, 3, 1).reshape(n, h * w, c))
        qkv = qkv.view(n, h * w, 3, self.heads, c // self.heads)
        if self.is_cosine:
            qkv = normalize(qkv, (4,))
        if self.in_fp32:
            qkv = qkv.float()
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, heads, HW, C/heads]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        y = self.proj(y.to(x.dtype)).view(n, h, w, c).permute(0, 3, 1, 2)
        return y.add_(x, alpha=self.share)


class Convolution(nn.Module):
    """share·(gain·W * x + bias), of the image x or, if `upsamples`, of the upsampled one."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        layer: Layer,
        form: Form,
        gain: torch.Tensor | float = 1.0,
        share: float = 1.0,
        *,
        upsamples: bool = False,
    ) -> None:
        super().__init__()
        self.upsamples = upsamples
        weight, bias = constants(layer, gain, share)
        weight = upsampling_kernel(weight) if upsamples else weight
        self.register_buffer("weight", weight.to(form.dtype, memory_format=form.memory_format))
        self.register_buffer("bias", None if bias is None else bias.to(form.dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsamples:
            return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class Linear(nn.Module):
    """share·(gain·W x + bias): [..., in_channels] → [..., out_channels]."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        layer: Layer,
        gain: torch.Tensor | float = 1.0,
        share: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        weight, bias = constants(layer, gain, share)
        self.register_buffer("weight", weight.flatten(1).to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


@torch.no_grad()
def constants(
    layer: Layer, gain: torch.Tensor | float, share: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of share·(gain·W x + bias), float32."""
    weight = layer.effective_weight()
    bias = None if layer.bias is None else layer.bias.detach() * share
    return weight * (gain * share), bias


def upsampling_kernel(weight: torch.Tensor) -> torch.Tensor:
    """The weight with which `conv_transpose2d` of stride 2 and padding 1 upsamples and convolves.

    Each pixel of the image is a square of 2×2 pixels of the upsampled one; what such a square adds to
    the output is the sum of what its pixels add. [out, in, 3, 3] → [in, out, 4, 4]; 4/9 of the
    multiplications.
    """
    squares = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
    return squares.transpose(0, 1)
