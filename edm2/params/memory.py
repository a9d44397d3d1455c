"""The least memory that a stage needs, from its params alone.

Only what is certain is counted: weights, what the optimizer keeps of them, and the activations that wait
for the backward pass. `edm2 plan` runs the code itself on fake tensors, which takes seconds and finds all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edm2.params.codec_checks import latent_layout
from edm2.params.seams import METRICS
from edm2.params.sizes import SIZES
from edm2.params.tree import Params

KERNEL = 9  # weights of a 3×3 convolution, for each pair of channels
KEPT = 4  # activations of a block: the inputs of two convolutions and of two activation functions
WIDTHS = "channels, channel_mult, res_blocks"
COPIES = 4  # of the weights: themselves, gradients, and Adam's two moments


@dataclass(frozen=True)
class Need:
    """A part of the memory that a process needs.

    Attributes:
        keys: params that make it smaller.
    """

    name: str
    bytes: int
    keys: str


@dataclass(frozen=True)
class Level:
    """Blocks of one resolution.

    Attributes:
        convolutions: of 3×3, from at least `width` channels to `width`.
    """

    width: int
    side: int
    blocks: int
    convolutions: int

    @property
    def weights(self) -> int:
        return KERNEL * self.convolutions * self.width**2

    @property
    def pixels(self) -> int:
        """Numbers of an activation, of all blocks."""
        return self.blocks * self.width * self.side**2


def min_memory(stage: str, params: Params, world_size: int, root: Path) -> list[Need]:
    """What one process of a stage needs at least; [] for stages that compute little.

    Args:
        params: of the config, for stages of one.
        world_size: processes of the stage.
    """
    needs = STAGES.get(stage)
    return [] if needs is None else list(needs(params, world_size, root))


def _features(params: Params, world_size: int, root: Path) -> Iterator[Need]:
    features = params.features
    levels = [
        Level(features.channels << k, params.dataset.resolution >> k, 1, 1)
        for k in range(features.slices)
    ]
    yield _weights("features", levels, COPIES, "channels, slices")
    images, precision = features.batch // world_size, 4
    yield _activations("features", levels, images, KEPT * precision, "batch, channels")


def _vae(params: Params, world_size: int, root: Path) -> Iterator[Need]:
    vae, runtime = params.vae, params.runtime
    if params.codec.kind != "trained":
        return
    side = params.dataset.resolution >> vae.high_resolution
    sides = [side >> max(level, vae.wavelet) for level in range(len(vae.channel_mult))]
    levels = _levels(vae.channels, vae.channel_mult, sides, vae.res_blocks)
    if vae.high_resolution:  # one more level of the decoder
        blocks = vae.res_blocks + 1
        levels.append(Level(levels[0].width, params.dataset.resolution, blocks, 2 * blocks))
    yield _weights("vae", levels, COPIES + len(vae.ema.ema_lengths), WIDTHS)
    images = vae.microbatch or vae.batch // world_size
    kept = KEPT * _bytes(runtime.precision)
    yield _activations("vae", levels, images, kept, f"microbatch, {WIDTHS}")


def _denoiser(params: Params, world_size: int, root: Path) -> Iterator[Need]:
    diffusion, runtime = params.diffusion, params.runtime
    levels = _denoiser_levels(params, root)
    copies = COPIES + 1  # one average at least
    ranks = world_size if runtime.data_parallel == "fsdp" else 1
    yield _weights("diffusion", levels, copies / ranks, WIDTHS)
    images = diffusion.microbatch or diffusion.batch // world_size
    kept = (1 if runtime.activation_checkpointing else KEPT) * _bytes(runtime.precision)
    yield _activations("diffusion", levels, images, kept, f"microbatch, {WIDTHS}")


def _guide(params: Params, world_size: int, root: Path) -> Iterator[Need]:
    if params.guidance.guide == "trained":
        guide = params.diffusion.changed(params.guidance.changes)
        yield from _denoiser(params.model_copy(update={"diffusion": guide}), world_size, root)


def _evaluation(params: Params, world_size: int, root: Path) -> Iterator[Need]:
    evaluation, levels = params.evaluation, _denoiser_levels(params, root)
    yield _weights("diffusion", levels, 1, WIDTHS)
    images = min(params.sampling.batch, -(-evaluation.samples // world_size))
    # the encoder's outputs wait for the decoder
    skips = [Level(level.width, level.side, level.blocks // 2, 0) for level in levels]
    yield _activations("sampling", skips, images, _bytes(params.runtime.precision), "batch")
    yield from _reference(params, world_size, root)
    if any(METRICS[metric].uses_features for metric in evaluation.metrics):
        size = 4 * params.detector_dims * evaluation.samples // world_size
        yield Need("features of the images", size, "evaluation.samples, evaluation.metrics")


def _reference(params: Params, world_size: int, root: Path) -> Iterator[Need]:
    yield Need("a covariance of features", 8 * params.detector_dims**2, "features.dims")


STAGES: dict[str, Callable[[Params, int, Path], Iterator[Need]]] = {
    "train_features": _features,
    "train_vae": _vae,
    "train_diffusion": _denoiser,
    "train_guide": _guide,
    "reference": _reference,
    "fid": _evaluation,
}


def _denoiser_levels(params: Params, root: Path) -> list[Level]:
    """Those of the network of the paper; [] for backbones of plug-ins."""
    diffusion, layout = params.diffusion, latent_layout(params, root)
    if layout is None or diffusion.overrides.backbone not in (None, "unet"):
        return []
    channels = SIZES[diffusion.size].channels if diffusion.size else diffusion.channels or 0
    side = params.dataset.resolution // layout[0]
    sides = [side >> level for level in range(len(diffusion.channel_mult))]
    return _levels(channels, diffusion.channel_mult, sides, diffusion.res_blocks)


def _levels(
    channels: int, mults: Sequence[int], sides: Sequence[int], res_blocks: int
) -> list[Level]:
    """Of encoder and decoder together: the first block of a level may take fewer channels."""
    return [
        Level(channels * mult, side, 2 * res_blocks + 1, 4 * res_blocks)
        for mult, side in zip(mults, sides, strict=True)
    ]


def _bytes(precision: str) -> int:
    return 4 if precision == "fp32" else 2


def _weights(section: str, levels: Sequence[Level], copies: float, keys: str) -> Need:
    size = int(4 * copies * sum(level.weights for level in levels))
    return Need(f"{copies:g} copies of the weights", size, _below(section, keys))


def _activations(section: str, levels: Sequence[Level], images: int, size: int, keys: str) -> Need:
    total = images * size * sum(level.pixels for level in levels)
    return Need(f"activations of {images:,} images", total, _below(section, keys))


def _below(section: str, keys: str) -> str:
    return ", ".join(f"{section}.{key}" for key in keys.split(", "))
