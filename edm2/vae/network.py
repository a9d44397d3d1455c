"""Encoder and decoder of the latent-diffusion family (Rombach et al. 2022)."""

import torch
from torch import nn
from torch.nn import functional as F

from edm2.params.vae import Vae

GROUPS = 32
LEAST_GROUP = 4  # channels
HEAD = 64  # channels


class Norm(nn.GroupNorm):
    """Group normalization in fp32; fewer groups where channels are few."""

    def __init__(self, channels: int) -> None:
        groups = min(GROUPS, max(1, channels // LEAST_GROUP))
        while channels % groups:
            groups -= 1
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
    """Norm → SiLU → conv, twice, plus a shortcut; near the identity at first."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = Norm(channels_in), Norm(channels_out)
        self.conv0 = _conv(channels_in, channels_out)
        self.conv1 = _conv(channels_out, channels_out)
        nn.init.normal_(self.conv1.weight, std=1e-4 / channels_out)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else _conv(channels_in, channels_out, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv0(F.silu(self.norm0(x)))
        y = self.conv1(F.silu(self.norm1(y)))
        out: torch.Tensor = self.shortcut(x) + y
        return out


class Attention(nn.Module):
    """Self-attention over pixels, 64 channels a head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        self.norm = Norm(channels)
        self.qkv = _conv(channels, 3 * channels, kernel=1)
        self.projection = _conv(channels, channels, kernel=1)
        nn.init.normal_(self.projection.weight, std=0.2 / channels**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [N, heads, HW, C/heads]
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h, w)
        out: torch.Tensor = x + self.projection(y)
        return out


class Down(nn.Module):
    """Stride-2 convolution, padded right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Up(nn.Module):
    """Nearest ×2, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Encoder(nn.Sequential):
    """float [N, 3, R, R] in [-1, 1] → mean of the latent [N, latent_channels, R/d, R/d]."""

    def __init__(self, params: Vae) -> None:
        widths = [params.channels * mult for mult in params.channel_mult]
        layers: list[nn.Module] = [_conv(3, widths[0])]
        before = widths[0]
        for level, width in enumerate(widths):
            if level > 0:
                layers.append(Down(before))
            for _ in range(params.num_res_blocks):
                layers.append(ResBlock(before, width))
                before = width
        super().__init__(*layers, *_middle(before, params.attention), Norm(before), nn.SiLU(),
                         _conv(before, params.latent_channels))  # fmt: skip


class Decoder(nn.Sequential):
    """Latent [N, latent_channels, R/d, R/d] → float [N, 3, R, R], about [-1, 1]."""

    def __init__(self, params: Vae) -> None:
        widths = [params.channels * mult for mult in reversed(params.channel_mult)]
        before = widths[0]
        layers = [_conv(params.latent_channels, before), *_middle(before, params.attention)]
        for level, width in enumerate(widths):
            if level > 0:
                layers.append(Up(before))
            for _ in range(params.num_res_blocks + 1):
                layers.append(ResBlock(before, width))
                before = width
        super().__init__(*layers, Norm(before), nn.SiLU(), _conv(before, 3))


class Autoencoder(nn.Module):
    """Encoder and decoder with a latent of constant variance: z = μ + √v·ε."""

    def __init__(self, params: Vae) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(params), Decoder(params)
        self.variance = params.variance

    def forward(
        self, images: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction and latent mean.

        Args:
            images: float [N, 3, R, R] in [-1, 1].
            noise: standard normal, of the latent's shape.
        """
        mean = self.encoder(images)
        return self.decoder(mean + self.variance**0.5 * noise), mean

    def first_parameters(self) -> list[nn.Parameter]:
        """Of the first convolution, which the learning-rate rule treats apart."""
        return list(self.encoder[0].parameters())


def _middle(channels: int, attention: bool) -> list[nn.Module]:
    between = [Attention(channels)] if attention else []
    return [ResBlock(channels, channels), *between, ResBlock(channels, channels)]


def _conv(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
