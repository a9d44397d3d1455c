"""Params of a training that cannot work: its schedule, the denoiser's shape, times of snapshots."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from edm2.params.codec_checks import latent_layout
from edm2.params.ema import Ema
from edm2.params.errors import Problem
from edm2.params.runtime import Runtime, lanes
from edm2.params.section import Training
from edm2.params.tree import Params
from edm2.params.vae import VaeEma


def level_problems(params: Params, root: Path) -> Iterator[Problem]:
    layout = latent_layout(params, root)
    if layout is None or params.dataset.resolution % layout[0]:
        return  # reported by other checks
    latent = params.dataset.resolution // layout[0]
    halvings = len(params.diffusion.channel_mult) - 1
    if latent % 2**halvings:
        yield Problem(
            "diffusion.channel_mult",
            list(params.diffusion.channel_mult),
            f"fewer levels for {latent}x{latent} latents",
            f"{halvings} halvings need a multiple of {2**halvings}: "
            "use fewer levels or a larger dataset.resolution.",
        )
    sides = [latent >> level for level in range(halvings + 1)]
    for side in params.diffusion.attention_resolutions or ():
        if side not in sides:
            yield Problem(
                "diffusion.attention_resolutions",
                side,
                f"one of the resolutions of the network's levels ({sides})",
                "Blocks have no other resolutions.",
            )


def training_problems(key: str, params: Params, world_size: int) -> Iterator[Problem]:
    """Problems of the training with the section `key`."""
    training = getattr(params, key)
    yield from _schedule_problems(key, training, world_size)
    yield from _reading_problems(key, training, params.runtime, world_size)


def _schedule_problems(key: str, training: Training, world_size: int) -> Iterator[Problem]:
    batch = training.batch
    if batch % world_size:
        yield Problem(
            f"{key}.batch",
            batch,
            f"a multiple of the {world_size} ranks",
            f"{nearest(batch, world_size)} Or start another number of processes (launch).",
        )
    intervals = ("duration_nimg", "log_nimg", "evaluate_nimg", "magnitudes_nimg")
    for name in (name for name in intervals if hasattr(training, name)):
        nimg = getattr(training, name)
        if nimg % batch:
            yield Problem(
                f"{key}.{name}", nimg, f"a multiple of {key}.batch ({batch})", nearest(nimg, batch)
            )
        if nimg > training.duration_nimg:
            yield Problem(
                f"{key}.{name}",
                nimg,
                f"at most {key}.duration_nimg ({training.duration_nimg})",
                "Use a smaller value.",
            )
    rank_batch, microbatch = batch // world_size, getattr(training, "microbatch", None)
    if microbatch is not None and rank_batch % microbatch:
        yield Problem(
            f"{key}.microbatch",
            microbatch,
            f"a divisor of the batch of one rank ({rank_batch} of {key}.batch)",
            "Gradients of microbatches add up to those of that batch.",
        )


def _reading_problems(
    key: str, training: Training, runtime: Runtime, world_size: int
) -> Iterator[Problem]:
    """Lanes of the order of blocks that ranks and workers cannot share."""
    workers = max(1, runtime.workers or 1)
    if runtime.reading == "blocks" and lanes(training.batch) % (world_size * workers):
        yield Problem(
            "runtime.workers",
            runtime.workers,
            f"with runtime.reading: blocks, a number that times {world_size} (ranks) divides "
            f"{lanes(training.batch)}, the lanes of {key}.batch ({training.batch})",
            "Start other ranks, use another batch, or set runtime.reading to random.",
        )


def denoiser_problems(params: Params) -> Iterator[Problem]:
    diffusion = params.diffusion
    if (diffusion.size is None) == (diffusion.channels is None):
        yield Problem(
            "diffusion.size, diffusion.channels",
            (diffusion.size, diffusion.channels),
            "exactly one of them set, and the other null",
            "Set a size or a width.",
        )
    if diffusion.channels is not None:
        for width in (diffusion.channels * mult for mult in diffusion.channel_mult):
            if width % max(1, width // 64) or width % 4:
                yield Problem(
                    "diffusion.channels",
                    diffusion.channels,
                    f"level widths in multiples of 64, or below 128 of 4; got {width}",
                    "Attention heads have 64 channels each.",
                )
    if diffusion.label_dropout and not diffusion.conditional:
        yield Problem(
            "diffusion.label_dropout",
            diffusion.label_dropout,
            "0 with diffusion.conditional: false",
            "Label dropout has no effect on an unconditional network.",
        )


def snapshot_problems(
    section: str, ema: Ema | VaeEma, key: str, training: Training
) -> Iterator[Problem]:
    """Times of snapshots that do not fit the training with the section `key`."""
    snapshot, duration = ema.snapshot_nimg, training.duration_nimg
    if snapshot > duration:
        yield Problem(
            f"{section}.snapshot_nimg",
            snapshot,
            f"at most {key}.duration_nimg ({duration})",
            "Take snapshots more often: at least eight in a training.",
        )
    elif duration % snapshot:
        yield Problem(
            f"{section}.snapshot_nimg",
            snapshot,
            f"a divisor of {key}.duration_nimg ({duration}), so that there is a snapshot at the end",
            nearest_divisor(snapshot, duration, training.batch),
        )
    if snapshot % training.batch:
        yield Problem(
            f"{section}.snapshot_nimg",
            snapshot,
            f"a multiple of {key}.batch ({training.batch})",
            nearest(snapshot, training.batch),
        )


def ascending_problems(key: str, values: Sequence[float]) -> Iterator[Problem]:
    if any(b - a <= 1e-9 for a, b in pairwise(values)):
        yield Problem(key, list(values), "values in ascending order, each once", "Sort them.")


def time_problems(params: Params) -> Iterator[Problem]:
    """Times of averages that have no snapshot."""
    if params.ema.source == "published":
        return
    snapshot, duration = params.ema.snapshot_nimg, params.diffusion.duration_nimg
    for nimg in params.sweep.nimg or ():
        if not snapshot <= nimg <= duration or nimg % snapshot:
            yield Problem(
                "sweep.nimg",
                nimg,
                f"times of snapshots, the multiples of ema.snapshot_nimg ({snapshot}) up "
                f"to the end ({duration})",
                f"{nearest(min(nimg, duration), snapshot)} null: the end.",
            )


def nearest(value: int, step: int) -> str:
    below, above = value // step * step, math.ceil(value / step) * step
    if below == above:
        return f"Nearest: {below}."
    return f"Nearest: {f'{below} or ' if below else ''}{above}."


def nearest_divisor(value: int, total: int, step: int = 1) -> str:
    """The divisor of `total` nearest to `value`, of those that are multiples of `step` if there are any."""
    small = [n for n in range(1, math.isqrt(total) + 1) if total % n == 0]
    divisors = sorted({*small, *(total // n for n in small)})
    fitting = [n for n in divisors if n % step == 0] or divisors
    return f"Nearest: {min(fitting, key=lambda n: abs(n - value))}."
