"""Layers and functions that the networks of all configs are built from."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from edm2.params.configs import TrainingConfig
from edm2.runtime.sharding import local

EPSILON = 1e-4  # of weight norm, pixel norm, and group norm without mean subtraction


def normalize(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """x / (‖x‖/√n + ε): unit root mean square over `dims`, n their product (EDM2 eq. 66)."""
    return x * inverse_magnitude(x, dims).to(x.dtype)


def inverse_magnitude(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """1 / (‖x‖/√n + ε) over `dims`, which are kept with size 1; float32."""
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    count = math.prod([x.shape[d] for d in dims])
    return (EPSILON + norm / math.sqrt(count)).reciprocal()


def mp_silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU scaled to unit magnitude on unit normal input (EDM2 eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """((1−t)a + tb) / √((1−t)² + t²) (EDM2 eq. 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Concatenate channels at unit magnitude, `b` contributing with share `t` (EDM2 eq. 103).

    [N, C_a, H, W], [N, C_b, H, W] → [N, C_a + C_b, H, W].
    """
    count_a, count_b = a.shape[1], b.shape[1]
    scale = math.sqrt((count_a + count_b) / ((1 - t) ** 2 + t**2))
    part_a = a * (scale * (1 - t) / math.sqrt(count_a))
    part_b = b * (scale * t / math.sqrt(count_b))
    return torch.cat([part_a, part_b], dim=1)


def downsample(x: torch.Tensor) -> torch.Tensor:
    """2×2 box filter: [N, C, H, W] → [N, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Repeat each pixel 2×2: [N, C, H, W] → [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Layer(nn.Module):
    """A convolution, or a linear layer if `kernel` is 0, with the options of the config.

    y = W * x + bias. If the config normalizes weights, each output unit of W is
    w / (ε + ‖w‖/√n) / √n, n the fan-in (EDM2 eq. 47 and 66).
    """

    bias: nn.Parameter | None
    cached_weight: torch.Tensor | None  # the normalized weight, inside `normalized_once`

    def __init__(
        self,
        config: TrainingConfig,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        ends_branch: bool = False,
        embeds_labels: bool = False,
    ) -> None:
        """
        Args:
            ends_branch: whether a branch ends here: `zero_ends` initializes it with zeros.
            embeds_labels: whether it is the class embedding: never a bias, and `zero_ends`
                initializes it from N(0, 1).
        """
        super().__init__()
        shape = (out_channels, in_channels, *([kernel, kernel] if kernel else []))
        self.weight = nn.Parameter(torch.empty(shape))
        has_bias = config.bias and not embeds_labels
        self.bias = nn.Parameter(torch.empty(out_channels)) if has_bias else None
        self.normalized = config.weight_norm != "none"
        self.forced = config.weight_norm == "forced"
        self.cached_weight = None
        self.dims = tuple(range(1, self.weight.ndim))
        self.fan_in = math.prod(shape[1:])
        self._initialize(config, ends_branch, embeds_labels)

    @torch.no_grad()
    def _initialize(self, config: TrainingConfig, ends_branch: bool, embeds_labels: bool) -> None:
        zero_ends = config.initialization == "zero_ends"
        bound = 1 / math.sqrt(self.fan_in)
        if config.initialization == "normal" or (zero_ends and embeds_labels):
            self.weight.normal_()
        else:
            self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)
        if zero_ends and ends_branch:
            for parameter in self.parameters():
                parameter.zero_()

    def forward(self, x: torch.Tensor, gain: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Apply the layer in the precision of `x`, with its weight multiplied by `gain`.

        [N, in_channels] → [N, out_channels] if linear; otherwise
        [N, in_channels, H, W] → [N, out_channels, H, W].
        """
        if self.normalized and self.cached_weight is None:
            weight = self.normalized_weight(gain)
        else:
            weight = self.weight if self.cached_weight is None else self.cached_weight
            if not isinstance(gain, float) or gain != 1.0:
                weight = weight * gain
        weight = weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def normalized_weight(self, gain: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The weight, with the norm of each output unit equal to `gain`."""
        scale = inverse_magnitude(self.weight, self.dims) * (gain / math.sqrt(self.fan_in))
        return self.weight * scale

    @torch.no_grad()
    def force_norm(self) -> None:
        """If the config forces norms, set each output unit's weights to norm √n (EDM2 Section 2.3)."""
        if self.forced:
            weight = local(self.weight)
            weight.mul_(inverse_magnitude(weight, self.dims))


@contextlib.contextmanager
def normalized_once(module: nn.Module) -> Iterator[None]:
    """Context in which each layer normalizes its weight once, for all forward and backward passes.

    Gradients accumulate at the cached normalized weights; on exit they are backpropagated to the
    weights. After an exception they are dropped.
    """
    layers = [m for m in module.modules() if isinstance(m, Layer) and m.normalized]
    weights = [layer.normalized_weight() for layer in layers]
    cached = [weight.detach().requires_grad_() for weight in weights]
    for layer, weight in zip(layers, cached, strict=True):
        layer.cached_weight = weight
    try:
        yield
    finally:
        for layer in layers:
            layer.cached_weight = None
    used = [(w, c.grad) for w, c in zip(weights, cached, strict=True) if c.grad is not None]
    torch.autograd.backward([weight for weight, _ in used], [gradient for _, gradient in used])


class GroupNorm(nn.Module):
    """Group norm of [N, C, H, W] in fp32, with 32 groups or fewer of at least 4 channels.

    `standard` subtracts the mean and has a learned scale and bias (ε 1e-5); otherwise it only
    divides by √(mean of squares + 1e-4).
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: TrainingConfig, channels: int) -> None:
        super().__init__()
        self.groups = min(32, max(1, channels // 4))
        while channels % self.groups:
            self.groups -= 1
        self.standard = config.group_norm == "standard"
        self.weight = nn.Parameter(torch.ones(channels)) if self.standard else None
        self.bias = nn.Parameter(torch.zeros(channels)) if self.standard else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.standard:
            return F.group_norm(x.float(), self.groups, self.weight, self.bias, 1e-5).to(x.dtype)
        grouped = x.float().unflatten(1, (self.groups, -1))  # [N, groups, C/groups, H, W]
        power = grouped.square().mean(dim=(2, 3, 4), keepdim=True)
        return (grouped * (power + EPSILON).rsqrt()).flatten(1, 2).to(x.dtype)


class PositionalEmbedding(nn.Module):
    """[N] → [N, channels]: cosines, then sines, of frequencies 10000^(−i/half), half = channels/2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.channels // 2
        index = torch.arange(half, dtype=torch.float32, device=x.device)
        angles = x.float().outer(10000 ** (-index / half))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """[N] → [N, channels]: cos 2π(f·a + φ) with fixed f ~ N(0, 1) and φ ~ U(0, 1).

    A scale of √2 gives unit magnitude (EDM2 eq. 75). The buffers contain the factor 2π.
    """

    freqs: torch.Tensor
    phases: torch.Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = x.float().outer(self.freqs.float()) + self.phases.float()
        return angles.cos() * self.scale


def noise_embedding(config: TrainingConfig, channels: int) -> nn.Module:
    """The config's features of the noise level: c_noise [N] → [N, channels], float32."""
    if config.noise_embedding == "positional":
        return PositionalEmbedding(channels)
    return fourier_embedding(config, channels)


def fourier_embedding(config: TrainingConfig, channels: int) -> FourierEmbedding:
    """Fourier features, of unit magnitude if the config's features of the noise level are."""
    return FourierEmbedding(channels, math.sqrt(2) if config.noise_embedding == "mp_fourier" else 1)
