"""Encoder and decoder of the latent-diffusion family (Rombach et al. 2022)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.params.vae import Vae
from edm2.params.vae_network import attention_heads, network_problems, norm_groups
from edm2.vae.wavelet import Wavelet

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # a learned variance is clamped to it


class Norm(nn.GroupNorm):
    """Group normalization, computed in fp32; `groups` as in `norm_groups`."""

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__(norm_groups(channels, groups), channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
    """Norm → SiLU → conv, twice, plus a shortcut; initialized near the shortcut alone."""

    def __init__(self, in_channels: int, out_channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.norm0, self.norm1 = Norm(in_channels, groups), Norm(out_channels, groups)
        self.conv0 = _conv(in_channels, out_channels)
        self.conv1 = _conv(out_channels, out_channels)
        nn.init.normal_(self.conv1.weight, std=1e-4 / out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else _conv(in_channels, out_channels, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv0(F.silu(self.norm0(x)))
        y = self.conv1(F.silu(self.norm1(y)))
        out: torch.Tensor = self.shortcut(x) + y
        return out


class Attention(nn.Module):
    """Self-attention over pixels; without a number of heads each has 64 channels."""

    def __init__(self, channels: int, heads: int | None = None, groups: int | None = None) -> None:
        super().__init__()
        self.heads = attention_heads(channels, heads)
        self.norm = Norm(channels, groups)
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
    """3×3 convolution with stride 2, padded on the right and at the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Up(nn.Module):
    """Nearest-neighbor upsampling by 2, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Encoder(nn.Sequential):
    """float [N, 3, R, R] in [-1, 1] → [N, C, R/d, R/d], d = `params.downscale`.

    The output is the latent's mean, followed by the logarithm of its variance if that is learned: C
    is `latent_channels`, or twice as many. With `high_resolution` images are averaged down by 2 first. With
    `wavelet` a Haar transform replaces the first stride-2 convolution. With `quant_convolutions` a 1×1
    convolution follows.
    """

    def __init__(self, params: Vae) -> None:
        widths = [params.channels * mult for mult in params.channel_mult]
        layers: list[nn.Module] = [nn.AvgPool2d(2)] if params.high_resolution else []
        layers += [Wavelet(3), _conv(12, widths[0])] if params.wavelet else [_conv(3, widths[0])]
        channels = widths[0]
        for level, width in enumerate(widths):
            if level > params.wavelet:
                layers.append(Down(channels))
            for _ in range(params.res_blocks):
                layers.append(ResBlock(channels, width, params.norm_groups))
                channels = width
        moments = params.latent_channels * (2 if params.variance == "learned" else 1)
        super().__init__(
            *layers,
            *_middle(channels, params),
            Norm(channels, params.norm_groups),
            nn.SiLU(),
            _conv(channels, moments),
            *([_conv(moments, moments, kernel=1)] if params.quant_convolutions else []),
        )


class Decoder(nn.Sequential):
    """Latent [N, latent_channels, R/d, R/d] → float [N, 3, R, R], about [-1, 1].

    With `high_resolution` it has one level more than the encoder, with `quant_convolutions` a 1×1 convolution
    before all layers.
    """

    def __init__(self, params: Vae) -> None:
        widths = [params.channels * mult for mult in reversed(params.channel_mult)]
        widths += widths[-1:] * params.high_resolution
        channels = widths[0]
        latent = params.latent_channels
        layers: list[nn.Module] = [_conv(latent, latent, 1)] if params.quant_convolutions else []
        layers += [_conv(latent, channels), *_middle(channels, params)]
        for level, width in enumerate(widths):
            if level > 0:
                layers.append(Up(channels))
            for _ in range(params.res_blocks + 1):
                layers.append(ResBlock(channels, width, params.norm_groups))
                channels = width
        super().__init__(*layers, Norm(channels, params.norm_groups), nn.SiLU(), _conv(channels, 3))


class Autoencoder(nn.Module):
    """Encoder and decoder with a latent z = μ + √v·ε, where the variance v is constant or learned."""

    def __init__(self, params: Vae) -> None:
        """
        Raises:
            ValueError: params that no network can have, such as groups that do not divide a width; names
                all of them.
        """
        super().__init__()
        problems = [str(problem) for problem in network_problems(params)]
        if problems:
            raise ValueError("\n".join(problems))
        self.encoder, self.decoder = Encoder(params), Decoder(params)
        self.variance, self.clamp, self.downscale = params.variance, params.clamp, params.downscale

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents, float32 [N, latent_channels, H/d, W/d].

        Args:
            images: float [N, 3, H, W] in [-1, 1], with sides that d = `params.downscale` divides.

        Raises:
            ValueError: images of another shape or type.
        """
        self._check(images)
        moments = self.encoder(images).float()
        if self.variance == "learned":
            mean, log_variance = moments.chunk(2, dim=1)
            std = (0.5 * _clamp(log_variance, *LOG_VARIANCE_RANGE)).exp()
        else:
            mean, std = moments, torch.full_like(moments, self.variance**0.5)
        return mean if self.clamp is None else _clamp(mean, -self.clamp, self.clamp), std

    def _check(self, images: torch.Tensor) -> None:
        shape, d = tuple(images.shape), self.downscale
        if len(shape) != 4 or shape[1] != 3 or any(side % d or side < d for side in shape[2:]):
            raise ValueError(
                f"images of shape {shape}: expected [N, 3, H, W] with sides that are multiples of {d}. "
                "Crop or resize them, and give gray images three equal channels."
            )
        if not images.is_floating_point():
            raise ValueError(
                f"images of type {images.dtype}: expected floating point in [-1, 1]. Use images / 127.5 - 1, "
                "or TrainedVae.encode, which takes uint8."
            )

    def forward(
        self,
        images: torch.Tensor,
        noise: torch.Tensor,
        latent_transform: Callable[[torch.Tensor], torch.Tensor] = lambda z: z,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Reconstruction [N, 3, R, R], latent mean and latent standard deviation.

        Args:
            images: float [N, 3, R, R] in [-1, 1].
            noise: ε, standard normal, of the latent's shape.
            latent_transform: applied to latents before they are decoded.

        Raises:
            ValueError: images or noise of another shape or type.
        """
        mean, std = self.encode(images)
        if noise.shape != mean.shape:
            raise ValueError(
                f"noise of shape {tuple(noise.shape)}: expected that of the latents, {tuple(mean.shape)}"
            )
        return self.decoder(latent_transform(mean + std * noise)), mean, std

    def first_parameters(
        self, layers: Literal["encoder", "both"] = "encoder"
    ) -> list[nn.Parameter]:
        """Weight and bias of the first convolutions, which have their own learning rate: from images, and
        with `both` from latents, to the width of the first level.
        """
        parts = [self.encoder, self.decoder] if layers == "both" else [self.encoder]
        return [p for part in parts for p in _first_convolution(part).parameters()]


def _first_convolution(part: nn.Sequential) -> nn.Conv2d:
    """The first 3×3 convolution: the 1×1 before it, with `quant_convolutions`, has no width."""
    return next(m for m in part if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1))


def _clamp(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`x.clamp`, but infinities become NaN: a diverged network must not become a number."""
    return torch.where(x.isfinite(), x.clamp(low, high), torch.nan)


def _middle(channels: int, params: Vae) -> list[nn.Module]:
    groups, heads = params.norm_groups, params.attention_heads
    layers = [Attention(channels, heads, groups)] if params.attention else []
    return [ResBlock(channels, channels, groups), *layers, ResBlock(channels, channels, groups)]


def _conv(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
