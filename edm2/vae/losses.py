"""Losses on a reconstruction, and the gradient normalization that balances them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from edm2.features.backbone import Backbone
from edm2.params.vae import Losses
from edm2.runtime.distributed import all_reduce, ranks

# loss(images, reconstruction), both float [N, 3, R, R] in [-1, 1] → scalar
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class _NormalizedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: float) -> torch.Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # each rank's loss is a mean over its share, so its gradient is `size` times the joint one's
        norm = all_reduce(gradient.float().square().sum()).sqrt() / ranks().size
        return gradient * (ctx.weight / (norm + 1e-8)), None


def normalize_gradient(x: torch.Tensor, weight: float) -> torch.Tensor:
    """The identity, whose backward pass scales the incoming gradient to norm `weight`.

    The norm is over the whole batch of all ranks, so that several ranks get the gradient of one on
    the joint batch. A loss that reads `x` through this pulls on the image with strength `weight`,
    whatever its own scale.
    """
    out: torch.Tensor = _NormalizedGradient.apply(x, weight)
    return out


def perceptual_loss(backbone: Backbone) -> Loss:
    """Distance of backbone features (LPIPS, Zhang et al. 2018, eq. 1, all channel weights one).

    Each slice's features are normalized to unit length per pixel; squared differences are summed
    over channels, averaged over pixels and images, and summed over slices.
    """

    def loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            targets = [F.normalize(x, dim=1) for x in backbone.slices(images)]
        found = [F.normalize(x, dim=1) for x in backbone.slices(reconstruction)]
        parts = [(a - b).square().sum(1).mean() for a, b in zip(targets, found, strict=True)]
        return torch.stack(parts).sum()

    return loss


def pooled_loss(pool: int) -> Loss:
    """Mean squared error of area-pooled images: colour and tone, blind to detail."""

    def loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(F.avg_pool2d(reconstruction, pool), F.avg_pool2d(images, pool))

    return loss


def image_losses(losses: Losses, backbone: Backbone) -> Mapping[str, tuple[float, Loss]]:
    """The losses that params ask for, by name, each with its weight at the image."""
    chosen = {
        "perceptual": (losses.perceptual, perceptual_loss(backbone)),
        "reconstruction": (losses.reconstruction, pooled_loss(losses.reconstruction_pool)),
    }
    return {name: (weight, loss) for name, (weight, loss) in chosen.items() if weight > 0}


def kl_loss(mean: torch.Tensor) -> torch.Tensor:
    """Mean of μ²: the KL term of a latent of constant variance, ½μ² but for a constant."""
    return mean.float().square().mean()
