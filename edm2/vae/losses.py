"""Losses of reconstructions, and their gradients at the reconstruction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from edm2.features.backbone import Backbone
from edm2.params.vae import Adversarial, Losses
from edm2.vae.discriminator import Discriminator, generator_loss, mean_over_heads
from edm2.vae.low_pass import low_pass_mask

# loss(images, reconstruction), both float [N, 3, R, R] in [-1, 1] → scalar
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LossOutput:
    """The losses of a microbatch, all tensors detached.

    Attributes:
        values: each loss, a scalar without its weight.
        gradients: gradient of each loss at the reconstruction, [N, 3, R, R].
        normalizing: the gradients whose norms these are divided by: the same, but of the adversarial loss
            without its threshold, so that what the threshold leaves over is not scaled up.
        real_inputs, fake_inputs: what the discriminator takes of images and of reconstructions; empty if
            there is none, or its training has not started.
    """

    values: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    normalizing: Mapping[str, torch.Tensor]
    real_inputs: Sequence[torch.Tensor]
    fake_inputs: Sequence[torch.Tensor]


class ImageLosses:
    """All losses with a weight above 0. Those on features share one pass through the backbone."""

    def __init__(
        self,
        losses: Losses,
        adversarial: Adversarial,
        backbone: Backbone,
        discriminator: Discriminator | None,
    ) -> None:
        """
        Args:
            discriminator: None if the adversarial loss has no weight.
        """
        self.backbone, self.discriminator = backbone, discriminator
        self.adversarial, self.perceptual = adversarial, losses.perceptual > 0
        pixel = {"pooled": pooled_loss(losses.pool), "low_pass": low_pass_loss, "mse": F.mse_loss}
        self.pixel: dict[str, Loss] = {k: v for k, v in pixel.items() if getattr(losses, k) > 0}

    def __call__(
        self, images: torch.Tensor, reconstruction: torch.Tensor, nimg: int, flip: bool
    ) -> LossOutput:
        """
        Args:
            images, reconstruction: float [N, 3, R, R], about [-1, 1].
            nimg: training time; the adversarial loss starts after `generator_nimg`.
            flip: whether the backbone gets both flipped horizontally.
        """
        reconstruction = reconstruction.detach().float().requires_grad_()
        flipped = [x.flip(-1) if flip else x for x in (images, reconstruction)]
        real, fake = self._features(*flipped)
        values = {name: loss(images, reconstruction) for name, loss in self.pixel.items()}
        if self.perceptual:
            weights = self.backbone.channel_weights
            values["perceptual"] = perceptual_distance(real, fake, weights)
        if self.discriminator is None or nimg <= self.adversarial.discriminator_nimg:
            real, fake = [], []
        elif self.discriminator.backbone is not None:
            real, fake = [[x] for x in flipped]
        ungated: dict[str, torch.Tensor] = {}
        if self.discriminator is not None and nimg > self.adversarial.generator_nimg:
            values["adversarial"], ungated = self._adversarial(self.discriminator, real, fake)
        gradients = _gradients(values, reconstruction)
        return LossOutput(
            {name: value.detach() for name, value in values.items()},
            gradients,
            gradients | _gradients(ungated, reconstruction),
            real,
            [x.detach() for x in fake],
        )

    def _features(
        self, images: torch.Tensor, reconstruction: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        own = self.discriminator is None or self.discriminator.backbone is not None
        if not self.perceptual and own:
            return [], []
        with torch.no_grad():
            real = self.backbone.slices(images)
        return real, self.backbone.slices(reconstruction)

    def _adversarial(
        self,
        discriminator: Discriminator,
        real: Sequence[torch.Tensor],
        fake: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The adversarial loss, and what normalizes its gradient if that is another one."""
        with torch.no_grad():
            scores = discriminator(real)
        own, kind = discriminator(fake), self.adversarial.generator_loss
        loss = mean_over_heads(generator_loss(x, y, kind) for x, y in zip(scores, own, strict=True))
        if kind != "threshold":
            return loss, {}
        return loss, {"adversarial": -mean_over_heads(y.mean() for y in own)}


def _gradients(
    values: Mapping[str, torch.Tensor], reconstruction: torch.Tensor
) -> dict[str, torch.Tensor]:
    return {
        name: torch.autograd.grad(value, reconstruction, retain_graph=True)[0]
        for name, value in values.items()
    }


def perceptual_distance(
    a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], channel_weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Mean over images of the distance of feature maps (LPIPS, Zhang et al. 2018, eq. 1).

    The features of each slice are normalized to unit length per pixel. Their squared differences are
    multiplied by the channel's weight and summed over channels, averaged over pixels and images, and
    summed over slices.

    Args:
        a, b: maps [N, C_k, H_k, W_k] of each slice.
        channel_weights: [C_k] of each slice.
    """
    distances = []
    for x, y, weights in zip(a, b, channel_weights, strict=True):
        squares = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
        distances.append((weights.reshape(-1, 1, 1) * squares).sum(1).mean())
    return torch.stack(distances).sum()


def perceptual_loss(backbone: Backbone) -> Loss:
    """`perceptual_distance` of the backbone's features; gradients flow to the reconstruction only."""

    def loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            real = backbone.slices(images)
        fake = backbone.slices(reconstruction)
        return perceptual_distance(real, fake, backbone.channel_weights)

    return loss


def pooled_loss(pool: int) -> Loss:
    """Mean squared error of images averaged over `pool`×`pool` pixels: color and tone, no detail."""

    def loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(F.avg_pool2d(reconstruction, pool), F.avg_pool2d(images, pool))

    return loss


def low_pass_loss(images: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Mean over all pixels of squared error times the low-pass mask of the images.

    Detail is left to other losses.
    """
    return (low_pass_mask(images) * (reconstruction - images).square()).mean()


def kl_loss(mean: torch.Tensor, std: torch.Tensor | None) -> torch.Tensor:
    """Twice the KL divergence of N(μ, σ²) from N(0, 1) per latent value, up to a constant.

    The mean of μ² + σ² − 1 − ln σ²; with constant variance (std None) the mean of μ².
    """
    terms = mean.float().square()
    if std is not None:
        terms = terms + std.square() - 1 - 2 * std.log()
    return terms.mean()
