"""Combinations of `vae` that cannot work."""

from collections.abc import Iterator
from importlib.util import find_spec
from math import gcd
from pathlib import Path

from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.errors import Problem
from edm2.params.evaluation_checks import detector_path_problems
from edm2.params.seams import VAE_BACKBONES
from edm2.params.training_checks import nearest_divisor
from edm2.params.tree import Params
from edm2.params.vae import Vae, VaeInit
from edm2.params.vae_ema_checks import vae_ema_problems

RESULT = "models/vae"  # of the stage that trains


def vae_problems(params: Params, root: Path) -> Iterator[Problem]:
    """
    Args:
        root: folder that relative paths start from.
    """
    vae = params.vae
    yield from _init(vae.init, root)
    yield from detector_path_problems("vae", vae.detector, vae.detector_path, root)
    if vae.warmup_nimg > vae.duration_nimg:
        yield Problem(
            "vae.warmup_nimg",
            vae.warmup_nimg,
            f"at most vae.duration_nimg ({vae.duration_nimg})",
            "Use a smaller value.",
        )
    yield from network_problems(vae)
    yield from _sides(params)
    yield from _losses(vae)
    yield from vae_ema_problems(vae)
    if 2 * vae.equivariance.flip_channels >= vae.latent_channels:
        yield Problem(
            "vae.equivariance.flip_channels",
            vae.equivariance.flip_channels,
            f"less than half of vae.latent_channels ({vae.latent_channels})",
            "Each of the two axes reserves that many.",
        )


def _init(init: VaeInit, root: Path) -> Iterator[Problem]:
    if init.path is None:
        if init.parts != "all":
            yield Problem(
                "vae.init.parts",
                init.parts,
                "all with vae.init.path: null",
                "Set vae.init.path to the folder of a VAE.",
            )
        return
    folder = root / init.path
    autoencoder = (folder / CONFIG).is_file()
    if not autoencoder and not (folder / "manifest.json").is_file():
        yield Problem(
            "vae.init.path",
            init.path,
            f"the folder models/vae of another project, or one with {CONFIG} and {WEIGHTS}",
            f"Looked for {folder}. Or set it to null: random weights.",
        )
    elif folder.resolve() == (root / RESULT).resolve():
        yield Problem(
            "vae.init.path",
            init.path,
            "another folder than that of the result, which is removed before the stage runs",
            f"Copy {RESULT} and name the copy.",
        )
    elif autoencoder and find_spec("diffusers") is None:
        yield Problem(
            "vae.init.path",
            init.path,
            "the package diffusers to be installed: the folder has an AutoencoderKL",
            "Install it: pip install 'edm2[sd]'.",
        )


def network_problems(vae: Vae) -> Iterator[Problem]:
    """Options that no network can have together: widths that groups or heads do not divide, and levels."""
    if vae.wavelet and len(vae.channel_mult) < 2:
        yield Problem(
            "vae.wavelet",
            True,
            "false with a single level in vae.channel_mult",
            "The transform replaces the first halving, and there is none.",
        )
    widths = [vae.channels * mult for mult in vae.channel_mult]
    if vae.norm_groups is not None and any(width % vae.norm_groups for width in widths):
        common = gcd(*widths)
        yield Problem(
            "vae.norm_groups",
            vae.norm_groups,
            f"a divisor of the width of each level: {', '.join(map(str, widths))}",
            f"Use {common} or a divisor of it, or null.",
        )
    if not vae.attention:
        return
    if vae.attention_heads is None and widths[-1] % max(1, widths[-1] // 64):
        yield Problem(
            "vae.channels",
            vae.channels,
            f"a last level in multiples of 64, or below 128; got {widths[-1]}",
            "Attention heads have 64 channels each. Or set vae.attention_heads to 1.",
        )
    if vae.attention_heads is not None and widths[-1] % vae.attention_heads:
        yield Problem(
            "vae.attention_heads",
            vae.attention_heads,
            f"a divisor of the width of the last level ({widths[-1]})",
            "Use 1, or null.",
        )


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
