"""Residual blocks and attention of the U-Net."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.layers import GroupNorm, Layer, downsample, mp_silu, mp_sum, normalize, upsample
from edm2.params.configs import TrainingConfig

CLAMP = 256.0
HEAD = 64  # channels per attention head
BALANCE = 0.3  # share of a residual branch in magnitude-preserving sums (EDM2 Appendix B.4)

Flavor = Literal["enc", "dec"]
Resample = Literal["keep", "down", "up"]


class Conditioning(nn.Module):
    """Embedding → per-channel scale, and shift where the config has biases; in fp32."""

    gain: nn.Parameter | None

    def __init__(self, config: TrainingConfig, embedding: int, channels: int) -> None:
        super().__init__()
        self.shifts = config.bias
        self.affine = Layer(config, embedding, channels * (2 if self.shifts else 1), kernel=0)
        self.gain = nn.Parameter(torch.zeros([])) if config.magnitude_preserving else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        values = self.affine(embedding, gain=1.0 if self.gain is None else self.gain)
        scale, shift = values.chunk(2, dim=1) if self.shifts else (values, None)
        x = x * (1 + scale)[:, :, None, None].to(x.dtype)
        return x if shift is None else x + shift[:, :, None, None].to(x.dtype)


class Attention(nn.Module):
    """Self-attention over pixels; channels of q, k and v interleave within each head."""

    def __init__(self, config: TrainingConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.heads = max(1, channels // HEAD)
        self.norm = GroupNorm(config, channels) if config.attention == "dot" else None
        self.qkv = Layer(config, channels, 3 * channels, kernel=1)
        self.proj = Layer(config, channels, channels, kernel=1, ends_branch=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        y = self.qkv(x if self.norm is None else self.norm(x))
        qkv = y.reshape(n, self.heads, c // self.heads, 3, h * w)
        if self.config.attention == "cosine":
            qkv = normalize(qkv, (2,))
        if self.config.attention_fp32:
            qkv = qkv.float()
        # each [N, heads, HW, C/heads]; contiguous, as fused attention wants them
        q, k, v = qkv.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)  # softmax(q·k/√(C/heads)) v
        y = self.proj(y.transpose(2, 3).reshape(n, c, h, w).to(x.dtype))
        return mp_sum(x, y, BALANCE) if self.config.magnitude_preserving else x + y


class Block(nn.Module):
    """One residual block (EDM2 Figures 16 to 22).

    Main path: resample and, with pixel norm in the encoder, change channels and normalize.
    Residual branch: norm, SiLU, conv0, norm, conditioning, SiLU, dropout, conv1.
    """

    def __init__(
        self,
        config: TrainingConfig,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        flavor: Flavor,
        resample: Resample = "keep",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.resample = config, resample
        self.normalizes = config.pixel_norm and flavor == "enc"
        branch_in = out_channels if self.normalizes else in_channels
        has_norm = config.group_norm != "none"
        self.norm0 = GroupNorm(config, branch_in) if has_norm else None
        self.conv0 = Layer(config, branch_in, out_channels, kernel=3)
        self.conditioning = Conditioning(config, embedding, out_channels)
        self.norm1 = GroupNorm(config, out_channels) if has_norm else None
        self.conv1 = Layer(config, out_channels, out_channels, kernel=3, ends_branch=True)
        same = in_channels == out_channels
        self.skip = None if same else Layer(config, in_channels, out_channels, kernel=1)
        self.attention = Attention(config, out_channels) if attention else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        if self.config.pixel_norm:
            x = self._resample(x)
        if self.normalizes:
            x = normalize(x if self.skip is None else self.skip(x), (1,))
        y = self._branch(x, embedding)
        if not self.config.pixel_norm:
            x = self._resample(x)
        if not self.normalizes and self.skip is not None:
            x = self.skip(x)
        x = mp_sum(x, y, BALANCE) if self.config.magnitude_preserving else x + y
        if self.attention is not None:
            x = self.attention(x)
        return x.clamp(-CLAMP, CLAMP)

    def _branch(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        silu = mp_silu if self.config.magnitude_preserving else F.silu
        y = silu(x if self.norm0 is None else self.norm0(x))
        if not self.config.pixel_norm:
            y = self._resample(y)
        y = self.conv0(y)
        y = self.conditioning(y if self.norm1 is None else self.norm1(y), embedding)
        y = F.dropout(silu(y), self.config.dropout, self.training)
        out: torch.Tensor = self.conv1(y)
        return out

    def _resample(self, x: torch.Tensor) -> torch.Tensor:
        if self.resample == "keep":
            return x
        return downsample(x) if self.resample == "down" else upsample(x)
