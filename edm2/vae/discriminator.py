"""The discriminator: small heads on the features of a frozen backbone, and its losses."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.runtime.distributed import all_reduce, ranks
from edm2.vae.network import Norm

MARGIN = 0.1  # by which the discriminator must be ahead before the threshold loss pushes
ANCHOR_DECAY = 0.9


class Discriminator(nn.Module):
    """Feature maps [N, C_k, H_k, W_k], fine to coarse → scores [N, 1, H, W], above 0: real.

    A head per slice: 1×1 conv → norm → SiLU → 3×3 conv, whose weights start at zero, so that the
    untrained discriminator says 0 to everything. Finer maps are averaged down to the coarsest, and
    all are summed.
    """

    def __init__(self, slice_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(width, channels) for width in slice_channels)
        self.register_buffer("anchors", torch.zeros(2))  # running means of D on images, on decoded

    anchors: torch.Tensor

    def forward(self, slices: Sequence[torch.Tensor]) -> torch.Tensor:
        maps = [head(x.float()) for head, x in zip(self.heads, slices, strict=True)]
        side = maps[-1].shape[-2:]
        return torch.stack([F.adaptive_avg_pool2d(x, side) for x in maps]).sum(0)

    @torch.no_grad()
    def update_anchors(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        """Move the running means towards the scores of this batch, of all ranks."""
        means = torch.stack([real.mean(), fake.mean()])
        self.anchors.lerp_(all_reduce(means) / ranks().size, 1 - ANCHOR_DECAY)


def discriminator_loss(
    real: torch.Tensor, fake: torch.Tensor, kind: Literal["hinge", "bce"]
) -> torch.Tensor:
    """What the discriminator minimizes: scores of images should be high, of decoded ones low.

    hinge: ½(relu(1 − D(x)) + relu(1 + D(x̂))); bce: the cross-entropies of both, halved.
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(
    real: torch.Tensor, fake: torch.Tensor, kind: Literal["threshold", "hinge", "bce"]
) -> torch.Tensor:
    """What the autoencoder minimizes, by the scores of its reconstructions.

    threshold: relu(D(x) − D(x̂) − 0.1) with D(x) held constant, patch by patch: nothing is pushed
    where the discriminator is not ahead; hinge: −D(x̂); bce: cross-entropy.
    """
    if kind == "threshold":
        return F.relu(real.detach() - fake - MARGIN).mean()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def lecam(real: torch.Tensor, fake: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """LeCam regularization (Tseng et al. 2021, eq. 6): (D(x) − ā_fake)² + (D(x̂) − ā_real)².

    Args:
        anchors: running means of D on images and on reconstructions, [2].
    """
    return (real - anchors[1]).square().mean() + (fake - anchors[0]).square().mean()


def _head(width: int, channels: int) -> nn.Sequential:
    last = nn.Conv2d(channels, 1, 3, padding=1)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(width, channels, 1), Norm(channels), nn.SiLU(), last)
