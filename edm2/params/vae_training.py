"""Combinations of options that no training of a VAE can have, whatever the images are."""

from collections.abc import Iterator

from edm2.params.errors import Problem
from edm2.params.vae import Vae


def vae_training_problems(vae: Vae) -> Iterator[Problem]:
    """Schedules that contradict each other, losses that teach nothing, channels that do not suffice."""
    if vae.warmup_nimg > vae.duration_nimg:
        yield Problem(
            "vae.warmup_nimg",
            vae.warmup_nimg,
            f"at most vae.duration_nimg ({vae.duration_nimg})",
            "Use a smaller value.",
        )
    yield from _losses(vae)
    if 2 * vae.equivariance.flip_channels >= vae.latent_channels:
        yield Problem(
            "vae.equivariance.flip_channels",
            vae.equivariance.flip_channels,
            f"less than half of vae.latent_channels ({vae.latent_channels})",
            "Each of the two axes reserves that many.",
        )


def _losses(vae: Vae) -> Iterator[Problem]:
    losses, adversarial = vae.losses, vae.adversarial
    images = ("perceptual", "adversarial", "pooled", "low_pass", "mse")
    if not any(getattr(losses, name) for name in images):
        yield Problem(
            "vae.losses",
            dict(losses),
            f"a weight above 0 for one of {', '.join(images)}",
            "Otherwise nothing is learned.",
        )
    elif adversarial.generator_nimg and not any(
        getattr(losses, name) for name in images if name != "adversarial"
    ):
        yield Problem(
            "vae.losses",
            dict(losses),
            "a weight above 0 for one more than adversarial, which enters at "
            f"vae.adversarial.generator_nimg ({adversarial.generator_nimg})",
            "Otherwise nothing is learned before that.",
        )
    if adversarial.generator_nimg < adversarial.discriminator_nimg:
        yield Problem(
            "vae.adversarial.generator_nimg",
            adversarial.generator_nimg,
            f"at least vae.adversarial.discriminator_nimg ({adversarial.discriminator_nimg})",
            "The discriminator must be trained before its loss is used.",
        )
    if losses.adversarial and adversarial.generator_nimg >= vae.duration_nimg:
        yield Problem(
            "vae.adversarial.generator_nimg",
            adversarial.generator_nimg,
            f"less than vae.duration_nimg ({vae.duration_nimg})",
            "The loss would never be used. Or set vae.losses.adversarial to 0.",
        )
