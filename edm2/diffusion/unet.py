"""The raw network F(x; c_noise, labels)."""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from edm2.diffusion.backbone import Backbone, Shape
from edm2.diffusion.blocks import Block
from edm2.diffusion.layers import GroupNorm, Layer, mp_cat, mp_silu, mp_sum, noise_embedding
from edm2.params.configs import TrainingConfig

# shares in magnitude-preserving sums and concatenations (EDM2 Section 2.5)
LABEL_BALANCE = 0.5  # of the class in the embedding
SKIP_BALANCE = 0.5  # of skip connections in the decoder


class Embedding(nn.Module):
    """Noise level and class → one vector [N, width], in fp32."""

    layer1: Layer | None
    label: Layer | None

    def __init__(self, config: TrainingConfig, shape: Shape, width: int) -> None:
        super().__init__()
        self.config = config
        self.features = noise_embedding(config, shape.channels)
        self.layer0 = Layer(config, shape.channels, width, kernel=0)
        self.layer1 = self.label = None
        if config.embedding_layers == 2:
            self.layer1 = Layer(config, width, width, kernel=0)
        if shape.num_classes:
            self.label = Layer(config, shape.num_classes, width, kernel=0, embeds_labels=True)

    def forward(self, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """c_noise float32 [N]; labels float32 [N, num_classes], one-hot or zero."""
        silu = mp_silu if self.config.magnitude_preserving else F.silu
        x: torch.Tensor = self.layer0(self.features(c_noise))
        if self.layer1 is not None:
            x = self.layer1(F.silu(x))
        if self.label is not None and labels is not None:
            scale = math.sqrt(labels.shape[1]) if self.config.scaled_labels else 1.0
            y = self.label(labels * scale)
            x = mp_sum(x, y, LABEL_BALANCE) if self.config.magnitude_preserving else x + y
        return silu(x)


class Unet(Backbone):
    """U-Net with residual blocks named as in the paper's figures: enc-64x64-block0 and so on.

    The parameter `enc.64x64-block0.conv0.weight` is the paper's `enc-64x64-block0-conv0`.
    """

    out_gain: nn.Parameter | None

    def __init__(self, config: TrainingConfig, shape: Shape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        widths = [shape.channels * mult for mult in shape.channel_mult]
        embedding = _embedding_channels(config, shape)
        self.map = Embedding(config, shape, embedding)
        self.enc, skips = _encoder(config, shape, widths, embedding)
        self.dec = _decoder(config, shape, widths, skips, embedding)
        has_norm = config.group_norm != "none"
        self.out_norm = GroupNorm(config, widths[0]) if has_norm else None
        self.out_conv = Layer(config, widths[0], shape.in_channels, kernel=3, ends_branch=True)
        self.out_gain = nn.Parameter(torch.zeros([])) if config.magnitude_preserving else None

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The raw output [N, in_channels, R, R], in the precision of `x`.

        Args:
            x: [N, in_channels, R, R] in the precision of the activations.
            c_noise: float32 [N].
            labels: float32 [N, num_classes], one-hot or zero; None if unconditional.
        """
        embedding = self.map(c_noise, labels)
        if self.config.ones_channel:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x, embedding) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if "-block" in name:
                skip = skips.pop()
                mp = self.config.magnitude_preserving
                x = mp_cat(x, skip, SKIP_BALANCE) if mp else torch.cat([x, skip], dim=1)
            x = module(x, embedding)
        return self._out(x)

    def residual_blocks(self) -> list[nn.Module]:
        """The residual blocks."""
        return [m for part in (self.enc, self.dec) for m in part.values() if isinstance(m, Block)]

    def buckets(self) -> dict[str, list[nn.Module]]:
        """Layers of the residual blocks by encoder or decoder and resolution, like enc-64x64."""
        buckets: dict[str, list[nn.Module]] = {}
        for part, modules in (("enc", self.enc), ("dec", self.dec)):
            for name, block in modules.items():
                if isinstance(block, Block):
                    layers = [m for m in block.modules() if isinstance(m, Layer)]
                    buckets.setdefault(f"{part}-{name.partition('-')[0]}", []).extend(layers)
        return buckets

    def _out(self, x: torch.Tensor) -> torch.Tensor:
        if self.out_norm is not None:
            x = self.out_norm(x)
        if self.config.output_silu:
            x = F.silu(x)
        out: torch.Tensor = self.out_conv(x, gain=1.0 if self.out_gain is None else self.out_gain)
        return out


def _embedding_channels(config: TrainingConfig, shape: Shape) -> int:
    """Width of the embedding: four times the first level's in ADM, whose embedding is positional;
    otherwise that of the widest level. The same for the shapes of the paper.
    """
    mult = 4 if config.noise_embedding == "positional" else max(shape.channel_mult)
    return shape.channels * mult


def _encoder(
    config: TrainingConfig, shape: Shape, widths: list[int], embedding_channels: int
) -> tuple[nn.ModuleDict, list[int]]:
    """The encoder's modules in order, and the number of output channels of each."""
    block = partial(Block, config, embedding_channels=embedding_channels, part="enc")
    modules: dict[str, nn.Module] = {}
    skips: list[int] = []
    channels = shape.in_channels + (1 if config.ones_channel else 0)
    for level, width in enumerate(widths):
        side = shape.resolution >> level
        attention = side in config.attention_resolutions
        if level == 0:
            modules[f"{side}x{side}-conv"] = Layer(config, channels, width, kernel=3)
            channels = width
        else:
            modules[f"{side}x{side}-down"] = block(channels, channels, resample="down")
        skips.append(channels)
        for k in range(shape.res_blocks):
            modules[f"{side}x{side}-block{k}"] = block(channels, width, attention=attention)
            channels = width
            skips.append(channels)
    return nn.ModuleDict(modules), skips


def _decoder(
    config: TrainingConfig,
    shape: Shape,
    widths: list[int],
    skips: list[int],
    embedding_channels: int,
) -> nn.ModuleDict:
    """The decoder's modules in order; the first has attention at any resolution.

    Each "-block" also takes the output of one encoder module; the last output comes first.
    """
    block = partial(Block, config, embedding_channels=embedding_channels, part="dec")
    modules: dict[str, nn.Module] = {}
    channels = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        side = shape.resolution >> level
        attention = side in config.attention_resolutions
        if level == len(widths) - 1:
            modules[f"{side}x{side}-in0"] = block(channels, channels, attention=True)
            modules[f"{side}x{side}-in1"] = block(channels, channels)
        else:
            modules[f"{side}x{side}-up"] = block(channels, channels, resample="up")
        for k in range(shape.res_blocks + 1):
            in_channels = channels + skips.pop()
            modules[f"{side}x{side}-block{k}"] = block(in_channels, width, attention=attention)
            channels = width
    return nn.ModuleDict(modules)
