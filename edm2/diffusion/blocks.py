"""Residual blocks and attention of the U-Net."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.layers import GroupNorm, Layer, downsample, mp_sum, normalize, upsample
from edm2.params.configs import TrainingConfig

CLAMP = 256.0  # largest absolute activation at the end of a block
HEAD_CHANNELS = 64  # per attention head
RESIDUAL_BALANCE = 0.3  # share of a residual branch in magnitude-preserving sums (EDM2 Section 2.5)

Part = Literal["enc", "dec"]
Resample = Literal["keep", "down", "up"]


class Conditioning(nn.Module):
    """Scale channels by 1 + a linear function of the embedding, computed in fp32.

    A config with biases also shifts them; a magnitude-preserving one multiplies the linear
    function by a learned gain.
    """

    gain: nn.Parameter | None

    def __init__(self, config: TrainingConfig, embedding_channels: int, channels: int) -> None:
        super().__init__()
        self.has_shift = config.bias
        outputs = channels * (2 if self.has_shift else 1)
        self.affine = Layer(config, embedding_channels, outputs, kernel=0)
        self.gain = nn.Parameter(torch.zeros([])) if config.magnitude_preserving else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x [N, C, H, W], embedding float32 [N, embedding_channels] → [N, C, H, W]."""
        values = self.affine(embedding, gain=1.0 if self.gain is None else self.gain)
        scale, shift = values.chunk(2, dim=1) if self.has_shift else (values, None)
        x = x * (1 + scale)[:, :, None, None].to(x.dtype)
        return x if shift is None else x + shift[:, :, None, None].to(x.dtype)


class Attention(nn.Module):
    """Self-attention over pixels with a residual connection: [N, C, H, W] → [N, C, H, W].

    The output channels of `qkv` are ordered as [heads, channels of a head, (q, k, v)].
    """

    def __init__(self, config: TrainingConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.heads = max(1, channels // HEAD_CHANNELS)
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
        # each [N, heads, HW, C/heads]; fused attention needs contiguous tensors
        q, k, v = qkv.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)  # softmax(q·k/√(C/heads)) v
        y = self.proj(y.transpose(2, 3).reshape(n, c, h, w).to(x.dtype))
        return mp_sum(x, y, RESIDUAL_BALANCE) if self.config.magnitude_preserving else x + y


class Block(nn.Module):
    """One residual block: [N, in_channels, H, W] → [N, out_channels, H', W'] (EDM2 Figures 16 to 22).

    Main path: resample and change channels; encoder blocks with pixel norm then normalize.
    Residual branch: norm, SiLU, conv0, norm, conditioning, SiLU, dropout, conv1. It starts from
    the input or, with pixel norm, from the resampled (in the encoder also normalized) main path.
    Attention, if any, follows the sum of both.
    """

    def __init__(
        self,
        config: TrainingConfig,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        part: Part,
        resample: Resample = "keep",
        attention: bool = False,
    ) -> None:
        """
        Args:
            embedding_channels: width of the embedding.
            part: the encoder or the decoder of the U-Net.
            attention: whether self-attention follows.
        """
        super().__init__()
        self.config, self.resample = config, resample
        self.normalizes_main_path = config.pixel_norm and part == "enc"
        branch_in = out_channels if self.normalizes_main_path else in_channels
        has_norm = config.group_norm != "none"
        self.norm0 = GroupNorm(config, branch_in) if has_norm else None
        self.conv0 = Layer(config, branch_in, out_channels, kernel=3, after_silu=True)
        self.conditioning = Conditioning(config, embedding_channels, out_channels)
        self.norm1 = GroupNorm(config, out_channels) if has_norm else None
        self.conv1 = Layer(
            config, out_channels, out_channels, kernel=3, ends_branch=True, after_silu=True
        )
        changes_channels = in_channels != out_channels
        self.skip = Layer(config, in_channels, out_channels, kernel=1) if changes_channels else None
        self.attention = Attention(config, out_channels) if attention else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x in the precision of the activations, embedding float32 [N, embedding_channels]."""
        if self.config.pixel_norm:
            x = self._resample(x)
        if self.normalizes_main_path:
            x = normalize(x if self.skip is None else self.skip(x), (1,))
        y = self._branch(x, embedding)
        if not self.config.pixel_norm:
            x = self._resample(x)
        if not self.normalizes_main_path and self.skip is not None:
            x = self.skip(x)
        x = mp_sum(x, y, RESIDUAL_BALANCE) if self.config.magnitude_preserving else x + y
        if self.attention is not None:
            x = self.attention(x)
        # a clamp whose gradient takes one pass in place of four
        return F.hardtanh_(x, -CLAMP, CLAMP)

    def _branch(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Magnitude-preserving SiLUs have their constant in the layer after them."""
        y = F.silu(x if self.norm0 is None else self.norm0(x))
        if not self.config.pixel_norm:
            y = self._resample(y)
        y = self.conv0(y)
        y = self.conditioning(y if self.norm1 is None else self.norm1(y), embedding)
        y = F.dropout(F.silu(y), self.config.dropout, self.training)
        out: torch.Tensor = self.conv1(y)
        return out

    def _resample(self, x: torch.Tensor) -> torch.Tensor:
        if self.resample == "keep":
            return x
        return downsample(x) if self.resample == "down" else upsample(x)
