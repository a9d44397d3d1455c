"""Combinations of `vae` that cannot work."""

from collections.abc import Iterator
from math import gcd
from pathlib import Path

from edm2.params.errors import Problem
from edm2.params.evaluation_checks import detector_path_problems
from edm2.params.seams import VAE_BACKBONES
from edm2.params.training_checks import nearest_divisor
from edm2.params.tree import Params
from edm2.params.vae_ema_checks import vae_ema_problems
from edm2.params.vae_init import init_problems
from edm2.params.vae_network import network_problems
from edm2.params.vae_training import vae_training_problems


def vae_problems(params: Params, root: Path) -> Iterator[Problem]:
    """
    Args:
        root: folder that relative paths start from.
    """
    vae = params.vae
    yield from init_problems(vae, root)
    yield from detector_path_problems("vae", vae.detector, vae.detector_path, root)
    yield from network_problems(vae)
    yield from _sides(params)
    yield from vae_training_problems(vae)
    yield from vae_ema_problems(vae)


def _sides(params: Params) -> Iterator[Problem]:
    """Sizes that do not fit the images, or their crops in the losses."""
    vae, resolution = params.vae, params.dataset.resolution
    if resolution % vae.downscale:
        return  # the resolution is the problem, see `wrong_combinations`
    if resolution % vae.losses.pool:
        yield Problem(
            "vae.losses.pool",
            vae.losses.pool,
            f"a divisor of dataset.resolution ({resolution})",
            nearest_divisor(vae.losses.pool, resolution),
        )
    yield from _scaled(params)
    if not vae.equivariance.crop:
        return
    crop = vae.equivariance.cropped_side(resolution // vae.downscale) * vae.downscale
    if resolution % vae.losses.pool == 0 and crop % vae.losses.pool:
        yield Problem(
            "vae.losses.pool",
            vae.losses.pool,
            f"a divisor of the side of crops ({crop}) with vae.equivariance.crop",
            f"{nearest_divisor(vae.losses.pool, gcd(crop, resolution))} Or set vae.equivariance.crop to 0.",
        )
    minimum = _min_side(params)
    if crop < minimum:
        yield Problem(
            "vae.equivariance.crop",
            vae.equivariance.crop,
            f"0 with crops of {crop} pixels: the backbone {vae.backbone} needs {minimum}",
            "Set it to 0, or use larger images.",
        )


def _min_side(params: Params) -> int:
    """Smallest side of images that the losses take, in pixels."""
    vae = params.vae
    if not (vae.losses.perceptual or vae.losses.adversarial):
        return 1
    return VAE_BACKBONES[vae.backbone].min_resolution or 2 ** (params.features.slices - 1)


def _scaled(params: Params) -> Iterator[Problem]:
    """Sizes of downscaled images and crops that do not fit the losses."""
    vae, equivariance = params.vae, params.vae.equivariance
    if not equivariance.scale:
        return
    whole = params.dataset.resolution // vae.downscale
    smallest = equivariance.cropped_side(whole) if equivariance.crop else whole
    if not equivariance.scaled_sides(smallest):
        yield Problem(
            "vae.equivariance.min_scale",
            equivariance.min_scale,
            f"a factor that makes latents of {smallest}×{smallest} pixels smaller",
            "Use a smaller one, or set vae.equivariance.scale to 0.",
        )
        return
    sides = {
        n * vae.downscale for side in (whole, smallest) for n in equivariance.scaled_sides(side)
    }
    if min(sides) < (minimum := _min_side(params)):
        factor = minimum / (smallest * vae.downscale)
        way = f"Use {factor:g} or more, or set" if factor < 1 else "Set"
        yield Problem(
            "vae.equivariance.min_scale",
            equivariance.min_scale,
            f"images of at least {minimum} pixels for the backbone {vae.backbone}, not {min(sides)}",
            f"{way} vae.equivariance.scale to 0.",
        )
    if uneven := sorted(side for side in sides if side % vae.losses.pool):
        yield Problem(
            "vae.losses.pool",
            vae.losses.pool,
            f"a divisor of the side of downscaled images ({uneven[0]}) with vae.equivariance.scale",
            f"Use a divisor of {vae.downscale}, or set vae.equivariance.scale to 0.",
        )
