"""What the denoiser needs of its raw network F(x; c_noise, labels)."""

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from edm2.params.number_types import Blocks, ChannelMult, Channels, Classes, Side


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Shape:
    """The shape of a network: what its config leaves open.

    Attributes:
        resolution, in_channels: of its input and output.
        num_classes: 0 for an unconditional network.
        channels: width of the first level.
        channel_mult: width of each level as a multiple of `channels`.
        res_blocks: residual blocks per level of the encoder; the decoder has one more.
    """

    resolution: Side
    in_channels: Channels
    num_classes: Classes
    channels: Channels
    channel_mult: ChannelMult
    res_blocks: Blocks


class Backbone(nn.Module):
    """A member of `edm2.params.seams.BACKBONES`, made from a `TrainingConfig` and a `Shape`."""

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Args:
            x: [N, in_channels, R, R] in the precision of the activations.
            c_noise: float32 [N].
            labels: float32 [N, num_classes], one-hot or zero; None if unconditional.

        Returns:
            the same shape as x.
        """
        raise NotImplementedError

    def buckets(self) -> dict[str, list[nn.Module]]:
        """Modules whose magnitudes are measured, by part of the network; each has a `weight` and
        an output with channels in dimension 1. Empty: nothing is measured.
        """
        return {}

    def residual_blocks(self) -> list[nn.Module]:
        """The large modules that run one after another, each returning a new tensor: the units of
        sharded parameters and of activation checkpointing.
        """
        return []
