"""The discriminator: a small head on each slice of a backbone, and its losses."""

import copy
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from edm2.features.backbone import Backbone
from edm2.params import UserError
from edm2.runtime.distributed import all_reduce, ranks
from edm2.vae.network import Norm

MARGIN = 0.1  # lead of the discriminator up to which the threshold loss is zero
ANCHOR_DECAY = 0.9
PROBE = 64  # side of the image that shows which parameters the features depend on


class Discriminator(nn.Module):
    """Scores of images, float32 [N, 1, H_k, W_k] for each slice k of a backbone; above 0: real.

    Each slice has a head: 1×1 conv → norm → SiLU → 3×3 conv → norm → SiLU → 3×3 conv. The weights of the
    last one start at zero, so that all scores are 0 at first. Each head is a discriminator of its own, at
    the scale of its slice: losses are means over heads (Sauer et al. 2021, eq. 3, Projected GANs).

    Attributes:
        backbone: the copy of the backbone that is trained with the heads; None: features of the frozen one
            come in.
    """

    anchors: torch.Tensor  # running means of D(x) and D(x̂), [2]

    def __init__(
        self, slice_channels: Sequence[int], channels: int, backbone: nn.Module | None = None
    ) -> None:
        """
        Args:
            slice_channels: C_k of each slice.
            channels: width of each head.
        """
        super().__init__()
        self.heads = nn.ModuleList(_head(width, channels) for width in slice_channels)
        self.backbone = backbone
        self.register_buffer("anchors", torch.zeros(2))

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            inputs: feature maps [N, C_k, H_k, W_k], fine to coarse; with a backbone of its own the images
                alone, [N, 3, R, R] in about [-1, 1].
        """
        if self.backbone is not None:
            (images,) = inputs
            inputs = self.backbone.slices(images)  # type: ignore[operator]
        return [head(x.float()) for head, x in zip(self.heads, inputs, strict=True)]

    @torch.no_grad()
    def update_anchors(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        """Move the running means towards the mean scores of this batch over all ranks, if they are finite."""
        means = all_reduce(torch.stack([real.mean(), fake.mean()])) / ranks().world_size
        means = torch.where(means.isfinite(), means, self.anchors)
        self.anchors.lerp_(means, 1 - ANCHOR_DECAY)


def build_discriminator(backbone: Backbone, channels: int, trainable: bool) -> Discriminator:
    """The discriminator on features of the backbone.

    Args:
        channels: width of each head.
        trainable: whether it has a copy of the backbone, which is trained, too.

    Raises:
        UserError: the backbone has no parameters that can be trained.
    """
    widths = [len(weights) for weights in backbone.channel_weights]
    return Discriminator(widths, channels, _trainable_copy(backbone) if trainable else None)


def _trainable_copy(backbone: Backbone) -> nn.Module:
    """Only parameters that features depend on are trained: a classifier has others."""
    if not isinstance(backbone, nn.Module):
        raise UserError(
            f"vae.adversarial.trainable_backbone: expected a backbone that is a torch.nn.Module, got "
            f"{backbone.name}, a {type(backbone).__name__}. Set it to false, or choose another backbone "
            "(vae.backbone)."
        )
    trainable = copy.deepcopy(backbone).requires_grad_(True)
    parameters = list(trainable.parameters())
    images = parameters[0].new_zeros(1, 3, PROBE, PROBE)
    total = torch.stack([x.float().sum() for x in trainable.slices(images)]).sum()
    for p, gradient in zip(
        parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True
    ):
        p.requires_grad_(gradient is not None)
    return trainable


def mean_over_heads(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """The mean of one scalar per head."""
    return torch.stack(list(values)).mean()


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
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1),
        Norm(channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        Norm(channels),
        nn.SiLU(),
        last,
    )
