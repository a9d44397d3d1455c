"""The discriminator: small heads on the features of a frozen backbone, and its losses."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.runtime.distributed import all_reduce, ranks
from edm2.vae.network import Norm

MARGIN = 0.1  # lead of the discriminator up to which the threshold loss is zero
ANCHOR_DECAY = 0.9


class Discriminator(nn.Module):
    """Feature maps [N, C_k, H_k, W_k], fine to coarse → float32 scores [N, 1, H, W]; above 0: real.

    Each slice of the backbone has a head: 1×1 conv → norm → SiLU → 3×3 conv. The weights of the last
    one start at zero, so that all scores are 0 at first. Finer maps are averaged down to the size of
    the coarsest, and the maps of all heads are summed.
    """

    anchors: torch.Tensor  # running means of D(x) and D(x̂), [2]

    def __init__(self, slice_channels: Sequence[int], channels: int) -> None:
        """
        Args:
            slice_channels: C_k of each slice.
            channels: width of each head.
        """
        super().__init__()
        self.heads = nn.ModuleList(_head(width, channels) for width in slice_channels)
        self.register_buffer("anchors", torch.zeros(2))

    def forward(self, slices: Sequence[torch.Tensor]) -> torch.Tensor:
        maps = [head(x.float()) for head, x in zip(self.heads, slices, strict=True)]
        size = maps[-1].shape[-2:]
        return torch.stack([F.adaptive_avg_pool2d(x, size) for x in maps]).sum(0)

    @torch.no_grad()
    def update_anchors(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        """Move the running means towards the mean scores of this batch over all ranks."""
        means = torch.stack([real.mean(), fake.mean()])
        self.anchors.lerp_(all_reduce(means) / ranks().world_size, 1 - ANCHOR_DECAY)


def discriminator_loss(
    real: torch.Tensor, fake: torch.Tensor, kind: Literal["hinge", "bce"]
) -> torch.Tensor:
    """The discriminator's loss: low where D(x) is high and D(x̂) is low.

    hinge: ½(relu(1 − D(x)) + relu(1 + D(x̂))); bce: the mean of both cross-entropies.

    Args:
        real, fake: scores D(x) of images and D(x̂) of reconstructions, of any shape.
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(
    real: torch.Tensor, fake: torch.Tensor, kind: Literal["threshold", "hinge", "bce"]
) -> torch.Tensor:
    """The adversarial loss of the VAE: low where D(x̂) is high.

    threshold: relu(D(x) − D(x̂) − 0.1) per patch, with D(x) held constant; zero where the
    discriminator does not lead by more than 0.1; hinge: −D(x̂); bce: cross-entropy.

    Args:
        real, fake: scores of images and of their reconstructions, of the same shape.
    """
    if kind == "threshold":
        return F.relu(real.detach() - fake - MARGIN).mean()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def lecam(real: torch.Tensor, fake: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """LeCam regularization (Tseng et al. 2021, eq. 6): (D(x) − ā_fake)² + (D(x̂) − ā_real)².

    Args:
        anchors: running means ā of D(x) and D(x̂), [2].
    """
    return (real - anchors[1]).square().mean() + (fake - anchors[0]).square().mean()


def _head(in_channels: int, channels: int) -> nn.Sequential:
    last = nn.Conv2d(channels, 1, 3, padding=1)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), Norm(channels), nn.SiLU(), last)
