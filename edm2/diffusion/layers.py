"""The pieces that networks of the config are made of."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from edm2.params.configs import TrainingConfig

EPSILON = 1e-4


def normalize(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """x / (‖x‖/√n + ε): unit root mean square over `dims`, n their product (EDM2 eq. 66)."""
    return x * inverse_magnitude(x, dims).to(x.dtype)


def inverse_magnitude(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """1 / (‖x‖/√n + ε) over `dims`, which stay as ones; float32."""
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
    """Concatenated channels, both parts contributing by `t` at unit magnitude (EDM2 eq. 103)."""
    count_a, count_b = a.shape[1], b.shape[1]
    scale = math.sqrt((count_a + count_b) / ((1 - t) ** 2 + t**2))
    part_a = a * (scale * (1 - t) / math.sqrt(count_a))
    part_b = b * (scale * t / math.sqrt(count_b))
    return torch.cat([part_a, part_b], dim=1)


def downsample(x: torch.Tensor) -> torch.Tensor:
    """2×2 box filter: [N, C, H, W] → [N, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Each pixel twice, both ways: [N, C, H, W] → [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Layer(nn.Module):
    """A learned convolution, or a linear map when `kernel` is 0, built as the config wants.

    y = W * x + bias, with W normalized per output unit where the config says so: w / (ε + ‖w‖/√n)
    / √n, n the fan-in (EDM2 eq. 47 and 66).
    """

    bias: nn.Parameter | None
    unit: torch.Tensor | None  # the normalized weight, while `normalized_once` holds it

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
            ends_branch: whether the EDM initialization sets it to zero.
            embeds_labels: whether it is the class embedding: no bias, standard normal in EDM.
        """
        super().__init__()
        shape = (out_channels, in_channels, *([kernel, kernel] if kernel else []))
        self.weight = nn.Parameter(torch.empty(shape))
        has_bias = config.bias and not embeds_labels
        self.bias = nn.Parameter(torch.empty(out_channels)) if has_bias else None
        self.normalized = config.weight_norm != "none"
        self.forced = config.weight_norm == "forced"
        self.unit = None
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
        """Apply the layer in the precision of `x`; `gain` scales the output."""
        if self.normalized and self.unit is None:
            weight = self.normalized_weight(gain)
        else:
            weight = self.weight if self.unit is None else self.unit
            if not isinstance(gain, float) or gain != 1.0:
                weight = weight * gain
        weight = weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def normalized_weight(self, gain: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The weight with each output unit's norm set to `gain`."""
        scale = inverse_magnitude(self.weight, self.dims) * (gain / math.sqrt(self.fan_in))
        return self.weight * scale

    @torch.no_grad()
    def force_norm(self) -> None:
        """Set each output unit's weights back to norm √n (EDM2 Section 2.3)."""
        if self.forced:
            self.weight.mul_(inverse_magnitude(self.weight, self.dims))


@contextlib.contextmanager
def normalized_once(module: nn.Module) -> Iterator[None]:
    """Within, each layer normalizes its weight once, for all forward passes and gradients.

    Gradients gather at the normalized weights and reach the weights on leaving.
    """
    layers = [m for m in module.modules() if isinstance(m, Layer) and m.normalized]
    units = [layer.normalized_weight() for layer in layers]
    for layer, unit in zip(layers, units, strict=True):
        layer.unit = unit.detach().requires_grad_()
    try:
        yield
        gradients = [None if layer.unit is None else layer.unit.grad for layer in layers]
    finally:
        for layer in layers:
            layer.unit = None
    reached = [(u, g) for u, g in zip(units, gradients, strict=True) if g is not None]
    torch.autograd.backward([unit for unit, _ in reached], [gradient for _, gradient in reached])


class GroupNorm(nn.Module):
    """32 groups, fewer where a group would have under 4 channels; computed in fp32.

    Without mean subtraction it divides by √(mean of squares + 1e-4) and learns nothing.
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
    """[N] → [N, channels]: cosines, then sines, of geometrically spaced frequencies."""

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

    Scaled by √2 it has unit magnitude (EDM2 eq. 75). The factor 2π is part of the buffers.
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
    """Features of c_noise, as the config wants them."""
    if config.noise_embedding == "positional":
        return PositionalEmbedding(channels)
    return FourierEmbedding(channels, math.sqrt(2) if config.noise_embedding == "mp_fourier" else 1)
