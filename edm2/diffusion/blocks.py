"""Residual blocks and attention of the U-Net."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.ladder import Ladder
from edm2.diffusion.layers import GroupNorm, Layer, downsample, mp_silu, mp_sum, normalize, upsample

CLAMP = 256.0
HEAD = 64  # channels per attention head
BALANCE = 0.3  # share of a residual branch in magnitude-preserving sums (EDM2 Appendix B.4)

Flavor = Literal["enc", "dec"]
Resample = Literal["keep", "down", "up"]


class Conditioning(nn.Module):
    """Embedding → per-channel scale, and shift where the config has biases; in fp32."""

    gain: nn.Parameter | None

    def __init__(self, ladder: Ladder, embedding: int, channels: int) -> None:
        super().__init__()
        self.shifts = ladder.bias
        self.affine = Layer(ladder, embedding, channels * (2 if self.shifts else 1), kernel=0)
        self.gain = nn.Parameter(torch.zeros([])) if ladder.magnitude_preserving else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        values = self.affine(embedding, gain=1.0 if self.gain is None else self.gain)
        scale, shift = values.chunk(2, dim=1) if self.shifts else (values, None)
        x = x * (1 + scale)[:, :, None, None].to(x.dtype)
        return x if shift is None else x + shift[:, :, None, None].to(x.dtype)


class Attention(nn.Module):
    """Self-attention over pixels; channels of q, k and v interleave within each head."""

    def __init__(self, ladder: Ladder, channels: int) -> None:
        super().__init__()
        self.ladder = ladder
        self.heads = max(1, channels // HEAD)
        self.norm = GroupNorm(ladder, channels) if ladder.attention == "dot" else None
        self.qkv = Layer(ladder, channels, 3 * channels, kernel=1)
        self.proj = Layer(ladder, channels, channels, kernel=1, ends_branch=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        y = self.qkv(x if self.norm is None else self.norm(x))
        qkv = y.reshape(n, self.heads, c // self.heads, 3, h * w)
        if self.ladder.attention == "cosine":
            qkv = normalize(qkv, (2,))
        if self.ladder.attention_fp32:
            qkv = qkv.float()
        # each [N, heads, HW, C/heads]; contiguous, as fused attention wants them
        q, k, v = qkv.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)  # softmax(q·k/√(C/heads)) v
        y = self.proj(y.transpose(2, 3).reshape(n, c, h, w).to(x.dtype))
        return mp_sum(x, y, BALANCE) if self.ladder.magnitude_preserving else x + y


class Block(nn.Module):
    """One residual block (EDM2 Figures 16 to 22).

    Main path: resample and, with pixel norm in the encoder, change channels and normalize.
    Residual branch: norm, SiLU, conv0, norm, conditioning, SiLU, dropout, conv1.
    """

    def __init__(
        self,
        ladder: Ladder,
        channels_in: int,
        channels_out: int,
        embedding: int,
        *,
        flavor: Flavor,
        resample: Resample = "keep",
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.ladder, self.resample, self.dropout = ladder, resample, dropout
        self.normalizes = ladder.pixel_norm and flavor == "enc"
        branch_in = channels_out if self.normalizes else channels_in
        has_norm = ladder.group_norm != "none"
        self.norm0 = GroupNorm(ladder, branch_in) if has_norm else None
        self.conv0 = Layer(ladder, branch_in, channels_out, kernel=3)
        self.conditioning = Conditioning(ladder, embedding, channels_out)
        self.norm1 = GroupNorm(ladder, channels_out) if has_norm else None
        self.conv1 = Layer(ladder, channels_out, channels_out, kernel=3, ends_branch=True)
        same = channels_in == channels_out
        self.skip = None if same else Layer(ladder, channels_in, channels_out, kernel=1)
        self.attention = Attention(ladder, channels_out) if attention else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        if self.ladder.pixel_norm:
            x = self._resample(x)
        if self.normalizes:
            x = normalize(x if self.skip is None else self.skip(x), (1,))
        y = self._branch(x, embedding)
        if not self.ladder.pixel_norm:
            x = self._resample(x)
        if not self.normalizes and self.skip is not None:
            x = self.skip(x)
        x = mp_sum(x, y, BALANCE) if self.ladder.magnitude_preserving else x + y
        if self.attention is not None:
            x = self.attention(x)
        return x.clamp(-CLAMP, CLAMP)

    def _branch(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        silu = mp_silu if self.ladder.magnitude_preserving else F.silu
        y = silu(x if self.norm0 is None else self.norm0(x))
        if not self.ladder.pixel_norm:
            y = self._resample(y)
        y = self.conv0(y)
        y = self.conditioning(y if self.norm1 is None else self.norm1(y), embedding)
        y = F.dropout(silu(y), self.dropout, self.training)
        out: torch.Tensor = self.conv1(y)
        return out

    def _resample(self, x: torch.Tensor) -> torch.Tensor:
        if self.resample == "keep":
            return x
        return downsample(x) if self.resample == "down" else upsample(x)
