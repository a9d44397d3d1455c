"""A backbone: residual blocks at one resolution, without a U-Net's halvings and skips."""

import torch
from torch import nn

from edm2.diffusion.backbone import Backbone, Shape
from edm2.diffusion.blocks import Block
from edm2.diffusion.layers import Layer
from edm2.diffusion.unet import Embedding
from edm2.params.configs import TrainingConfig
from edm2.params.seams import BACKBONES


class Flat(Backbone):
    def __init__(self, config: TrainingConfig, shape: Shape) -> None:
        super().__init__()
        width = shape.channels
        self.map = Embedding(config, shape, width)
        self.first = Layer(config, shape.in_channels, width, kernel=3)
        self.blocks = nn.ModuleList(
            Block(config, width, width, width, part="enc") for _ in range(shape.res_blocks)
        )
        self.last = Layer(config, width, shape.in_channels, kernel=3, ends_branch=True)

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        embedding = self.map(c_noise, labels)
        x = self.first(x)
        for block in self.blocks:
            x = block(x, embedding)
        out: torch.Tensor = self.last(x)
        return out

    def buckets(self) -> dict[str, list[nn.Module]]:
        return {"blocks": [m for m in self.blocks.modules() if isinstance(m, Layer)]}


BACKBONES.register("flat", Flat)
