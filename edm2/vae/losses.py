"""Losses on a reconstruction, and the gradient normalization that balances them."""

from collections.abc import Callable, Mapping, Sequence
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


def perceptual_distance(
    a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], channel_weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Distance of feature maps [N, C_k, H_k, W_k], the mean over images (LPIPS, Zhang et al. 2018,
    eq. 1).

    Each slice's features are normalized to unit length per pixel; squared differences are summed
    over channels, each times its weight, averaged over pixels and images, and summed over slices.
    """
    parts = []
    for x, y, weights in zip(a, b, channel_weights, strict=True):
        squares = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
        parts.append((weights.reshape(-1, 1, 1) * squares).sum(1).mean())
    return torch.stack(parts).sum()


def perceptual_loss(backbone: Backbone) -> Loss:
    """`perceptual_distance` of what the backbone sees; gradients reach the reconstruction alone."""

    def loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            targets = backbone.slices(images)
        found = backbone.slices(reconstruction)
        return perceptual_distance(targets, found, backbone.channel_weights)

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
