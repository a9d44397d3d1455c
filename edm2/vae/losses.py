"""Losses on reconstructions, each with its gradient at the image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from edm2.features.backbone import Backbone
from edm2.params.vae import Adversarial, Losses
from edm2.vae.discriminator import Discriminator, generator_loss
from edm2.vae.low_pass import low_pass_mask

# loss(images, reconstruction), both float [N, 3, R, R] in [-1, 1] → scalar
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Seen:
    """What the losses found on a batch.

    Attributes:
        values: each loss, detached.
        gradients: its gradient at the reconstruction, [N, 3, R, R].
        slices: features of images and of reconstructions, detached, for the discriminator.
    """

    values: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    slices: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]


class ImageLosses:
    """The losses that params ask for. Those on features share one pass through the backbone."""

    def __init__(
        self,
        losses: Losses,
        adversarial: Adversarial,
        backbone: Backbone,
        discriminator: Discriminator | None,
    ) -> None:
        """
        Args:
            discriminator: None where the adversarial loss has no weight.
        """
        self.backbone, self.discriminator = backbone, discriminator
        self.adversarial, self.perceptual = adversarial, losses.perceptual > 0
        pixel = {"pooled": pooled_loss(losses.pool), "low_pass": low_pass_loss, "mse": F.mse_loss}
        self.pixel: dict[str, Loss] = {k: v for k, v in pixel.items() if getattr(losses, k) > 0}

    def __call__(
        self, images: torch.Tensor, reconstruction: torch.Tensor, nimg: int, flip: bool
    ) -> Seen:
        """
        Args:
            images, reconstruction: float [N, 3, R, R] in about [-1, 1].
            nimg: training time, which settles whether the adversarial loss has begun.
            flip: whether the backbone sees both flipped.
        """
        leaf = reconstruction.detach().float().requires_grad_()
        real, fake = self._slices(images, leaf, flip)
        values = {name: loss(images, leaf) for name, loss in self.pixel.items()}
        if self.perceptual:
            weights = self.backbone.channel_weights
            values["perceptual"] = perceptual_distance(real, fake, weights)
        if self.discriminator is not None and nimg > self.adversarial.generator_nimg:
            with torch.no_grad():
                score = self.discriminator(real)
            kind = self.adversarial.generator_loss
            values["adversarial"] = generator_loss(score, self.discriminator(fake), kind)
        gradients = {
            name: torch.autograd.grad(value, leaf, retain_graph=True)[0]
            for name, value in values.items()
        }
        return Seen(
            {name: value.detach() for name, value in values.items()},
            gradients,
            (real, [x.detach() for x in fake]),
        )

    def _slices(
        self, images: torch.Tensor, leaf: torch.Tensor, flip: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if not self.perceptual and self.discriminator is None:
            return [], []
        if flip:
            images, leaf = images.flip(-1), leaf.flip(-1)
        with torch.no_grad():
            real = self.backbone.slices(images)
        return real, self.backbone.slices(leaf)


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
    """Mean squared error of area-pooled images: color and tone, blind to detail."""

    def loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(F.avg_pool2d(reconstruction, pool), F.avg_pool2d(images, pool))

    return loss


def low_pass_loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Mean squared error times the low-pass mask of the images: detail is left to other losses."""
    return (low_pass_mask(images) * (reconstruction - images).square()).mean()


def kl_loss(mean: torch.Tensor, std: torch.Tensor | None) -> torch.Tensor:
    """Twice the KL divergence of N(μ, σ²) from N(0, 1), per latent value, but for a constant.

    Mean of μ² for a latent of constant variance (std None), of μ² + σ² − 1 − ln σ² otherwise.
    """
    terms = mean.float().square()
    if std is not None:
        terms = terms + std.square() - 1 - 2 * std.log()
    return terms.mean()
