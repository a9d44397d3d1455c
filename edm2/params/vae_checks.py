"""Combinations of `vae` that cannot work."""

from collections.abc import Iterator

from edm2.params.errors import Problem
from edm2.params.seams import VAE_BACKBONES
from edm2.params.tree import Params
from edm2.params.vae import Vae


def vae_problems(params: Params) -> Iterator[Problem]:
    vae = params.vae
    if vae.warmup_nimg > vae.duration_nimg:
        yield Problem(
            "vae.warmup_nimg",
            vae.warmup_nimg,
            f"at most vae.duration_nimg ({vae.duration_nimg})",
            "Use a smaller value.",
        )
    width = vae.channels * vae.channel_mult[-1]
    if vae.attention and width % max(1, width // 64):
        yield Problem(
            "vae.channels",
            vae.channels,
            f"a last level in multiples of 64, or below 128; got {width}",
            "Attention heads have 64 channels each. Or set vae.attention to false.",
        )
    if vae.wavelet and len(vae.channel_mult) < 2:
        yield Problem(
            "vae.wavelet",
            True,
            "false with a single level in vae.channel_mult",
            "The transform replaces the first halving, and there is none.",
        )
    yield from _sides(params)
    yield from _losses(vae)
    if 2 * vae.equivariance.flip_channels >= vae.latent_channels:
        yield Problem(
            "vae.equivariance.flip_channels",
            vae.equivariance.flip_channels,
            f"less than half of vae.latent_channels ({vae.latent_channels})",
            "Each of the two axes reserves that many.",
        )


def _sides(params: Params) -> Iterator[Problem]:
    """Sizes that do not fit the images, or their crops in the losses."""
    vae, resolution = params.vae, params.dataset.resolution
    if resolution % vae.losses.pool:
        yield Problem(
            "vae.losses.pool",
            vae.losses.pool,
            f"a divisor of dataset.resolution ({resolution})",
            "Use a power of two below it.",
        )
    if not vae.equivariance.crop:
        return
    crop = (resolution // vae.downscale + 1) // 2 * vae.downscale
    if resolution % vae.losses.pool == 0 and crop % vae.losses.pool:
        yield Problem(
            "vae.losses.pool",
            vae.losses.pool,
            f"a divisor of the side of crops ({crop}) with vae.equivariance.crop",
            "Use a power of two below it, or set vae.equivariance.crop to 0.",
        )
    minimum = VAE_BACKBONES[vae.backbone].min_resolution or 2 ** (params.features.slices - 1)
    if crop < minimum and (vae.losses.perceptual or vae.losses.adversarial):
        yield Problem(
            "vae.equivariance.crop",
            vae.equivariance.crop,
            f"0 with crops of {crop} pixels: the backbone {vae.backbone} needs {minimum}",
            "Set it to 0, or use larger images.",
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
