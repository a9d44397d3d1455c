"""Combinations that cannot work, found before any work is done."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from edm2.params.codec_checks import autoencoder_layout, backbone_problems, codec_problems
from edm2.params.errors import Problem
from edm2.params.patterns import alternatives
from edm2.params.section import Training
from edm2.params.tree import Params

LARGEST_PHOTO_CROP = 128  # larger ones leave too few crops of the smallest photograph


def launched_ranks(launch: str) -> int:
    """How many processes `launch` starts: nodes × processes per node of torchrun, else one."""

    def option(name: str) -> int:
        found = re.search(rf"--{name}[= ](\d+)", launch.replace("_", "-"))
        return int(found.group(1)) if found else 1

    return option("nnodes") * option("nproc-per-node")


def problems(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """All wrong combinations of `params`.

    Args:
        world_size: number of processes of this launch.
        root: folder that relative paths start from.
    """
    yield from _dataset(params, root)
    yield from codec_problems(params, root)
    yield from backbone_problems(params, root)
    yield from _resolutions(params, root)
    yield from _vae_images(params, root)
    yield from _training("features", params.features, world_size)
    if params.codec.kind == "trained":
        yield from _vae(params)
        yield from _training("vae", params.vae, world_size)
    yield from _per_config(params, world_size, root)
    yield from _sweep(params, root)
    yield from _evaluation(params)
    yield from _guidance(params, world_size, root)


def _per_config(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """What may differ between configs, with their letters unless it is the same in all of them."""
    found: dict[str, tuple[Problem, list[str]]] = {}
    for config in params.configs:
        own = params.of(config)
        for problem in (
            *_levels(own, root),
            *_training("diffusion", own.diffusion, world_size),
            *_denoiser(own, world_size),
            *_snapshots(own),
            *_times(own),
            *_guide(own),
        ):
            found.setdefault(str(problem), (problem, []))[1].append(config)
    for problem, configs in found.values():
        special = params.diffusion.per_config.keys() >= set(configs)
        common = not special and len(configs) == len(params.configs)
        letters = "" if common else f" (config {', '.join(configs)})"
        yield replace(problem, key=problem.key + letters)
    for config, changes in params.diffusion.per_config.items():
        if "per_config" in changes:
            yield Problem(f"diffusion.per_config.{config}.per_config", changes["per_config"],
                          "other fields of `diffusion`", "Remove it.")  # fmt: skip


def _dataset(params: Params, root: Path) -> Iterator[Problem]:
    dataset = params.dataset
    if dataset.source == "folder":
        if dataset.path is None:
            yield Problem("dataset.path", None, "the folder of your images (source: folder)",
                          "Set dataset.path, one sub-folder per class.")  # fmt: skip
        elif not (root / dataset.path).is_dir():
            yield Problem("dataset.path", dataset.path, "a folder that exists",
                          f"Looked for {root / dataset.path}.")  # fmt: skip
    elif dataset.path is not None:
        yield Problem("dataset.path", dataset.path, f"null with source: {dataset.source}",
                      "Set it to null, or set dataset.source to folder.")  # fmt: skip
    if dataset.source == "photos" and dataset.resolution > LARGEST_PHOTO_CROP:
        yield Problem("dataset.resolution", dataset.resolution,
                      f"at most {LARGEST_PHOTO_CROP} with source: photos",
                      "The photographs are too small for such crops.")  # fmt: skip
    if len(set(params.configs)) != len(params.configs):
        yield Problem("configs", list(params.configs), "each letter once", "Remove the repeated.")


def _resolutions(params: Params, root: Path) -> Iterator[Problem]:
    resolution, layout = params.dataset.resolution, autoencoder_layout(params, root)
    trained = params.codec.kind == "trained"
    if layout is not None and resolution % layout[0]:
        reason = (f"vae.channel_mult has {len(params.vae.channel_mult)} levels, each after the first "
                  "halves it" if trained else "as the autoencoder halves it")  # fmt: skip
        yield Problem("dataset.resolution", resolution, f"a multiple of {layout[0]} ({reason})",
                      _nearest(resolution, layout[0]))  # fmt: skip
    if trained and resolution % params.vae.losses.reconstruction_pool:
        yield Problem("vae.losses.reconstruction_pool", params.vae.losses.reconstruction_pool,
                      f"a divisor of dataset.resolution ({resolution})",
                      "Use a power of two below it.")  # fmt: skip
    if resolution % 2 ** (params.features.slices - 1):
        yield Problem("features.slices", params.features.slices,
                      f"slices that halve {resolution} evenly", "Use fewer slices.")  # fmt: skip


def _levels(params: Params, root: Path) -> Iterator[Problem]:
    layout = autoencoder_layout(params, root)
    if layout is None or params.dataset.resolution % layout[0]:
        return  # told already
    latent = params.dataset.resolution // layout[0]
    halvings = len(params.diffusion.channel_mult) - 1
    if latent % 2**halvings:
        yield Problem("diffusion.channel_mult", list(params.diffusion.channel_mult),
                      f"levels that {latent}x{latent} latents can be halved for",
                      f"{halvings} halvings need a multiple of {2**halvings}: "
                      "use fewer levels or a larger dataset.resolution.")  # fmt: skip
    sides = [latent >> level for level in range(halvings + 1)]
    for side in params.diffusion.attention_resolutions or ():
        if side not in sides:
            yield Problem("diffusion.attention_resolutions", side,
                          f"one of the resolutions of the network's levels ({sides})",
                          "No block has another resolution.")  # fmt: skip


def _vae(params: Params) -> Iterator[Problem]:
    vae = params.vae
    if vae.warmup_nimg > vae.duration_nimg:
        yield Problem("vae.warmup_nimg", vae.warmup_nimg,
                      f"at most vae.duration_nimg ({vae.duration_nimg})", "Make it shorter.")  # fmt: skip
    width = vae.channels * vae.channel_mult[-1]
    if vae.attention and width % max(1, width // 64):
        yield Problem("vae.channels", vae.channels,
                      f"a last level in multiples of 64, or below 128; got {width}",
                      "Attention heads have 64 channels each; or set vae.attention to false.")  # fmt: skip


def _vae_images(params: Params, root: Path) -> Iterator[Problem]:
    images = params.vae.images
    if (images.shards is None) != (images.held_out is None):
        yield Problem("vae.images.shards, vae.images.held_out", (images.shards, images.held_out),
                      "both, or both null",
                      "Metrics need shards that training does not see.")  # fmt: skip
    trained_on: set[Path] = set()
    for name in ("shards", "held_out"):
        key, pattern = f"vae.images.{name}", getattr(images, name)
        try:
            found = alternatives(pattern, root) if pattern is not None else {}
        except ValueError as error:
            yield Problem(key, pattern, "braces in pairs", f"{error}.")
            continue
        missing = [root / alternative for alternative, paths in found.items() if not paths]
        if missing:
            yield Problem(key, pattern, "files that are there",
                          f"{len(missing)} of {len(found)} not found, first {missing[0]}.")  # fmt: skip
        files = {path.resolve() for paths in found.values() for path in paths}
        for path in sorted(files & trained_on)[:1]:
            yield Problem(key, pattern, "shards that are not among vae.images.shards",
                          f"{path} is in both.")  # fmt: skip
        trained_on |= files


def _training(key: str, training: Training, world_size: int) -> Iterator[Problem]:
    batch = training.batch
    if batch % world_size:
        yield Problem(f"{key}.batch", batch, f"a multiple of the {world_size} ranks",
                      _nearest(batch, world_size))  # fmt: skip
    intervals = ("duration_nimg", "log_nimg", "evaluate_nimg", "magnitudes_nimg")
    for name in (name for name in intervals if hasattr(training, name)):
        nimg = getattr(training, name)
        if nimg % batch:
            yield Problem(f"{key}.{name}", nimg, f"a multiple of {key}.batch ({batch})",
                          _nearest(nimg, batch))  # fmt: skip
        if nimg > training.duration_nimg:
            yield Problem(f"{key}.{name}", nimg,
                          f"at most {key}.duration_nimg ({training.duration_nimg})",
                          "Make it shorter.")  # fmt: skip


def _denoiser(params: Params, world_size: int) -> Iterator[Problem]:
    diffusion = params.diffusion
    if (diffusion.size is None) == (diffusion.channels is None):
        yield Problem("diffusion.size, diffusion.channels", (diffusion.size, diffusion.channels),
                      "one of the two, the other null", "Name a size or a width.")  # fmt: skip
    if diffusion.channels is not None:
        for width in (diffusion.channels * mult for mult in diffusion.channel_mult):
            if width % max(1, width // 64) or width % 4:
                yield Problem("diffusion.channels", diffusion.channels,
                              f"level widths in multiples of 64, or below 128 of 4; got {width}",
                              "Attention heads have 64 channels each.")  # fmt: skip
    if diffusion.label_dropout and not diffusion.conditional:
        yield Problem("diffusion.label_dropout", diffusion.label_dropout,
                      "0 with diffusion.conditional: false",
                      "A network that is told no class has none to be left out.")  # fmt: skip
    share = diffusion.batch // world_size
    if diffusion.microbatch is not None and share % diffusion.microbatch:
        yield Problem("diffusion.microbatch", diffusion.microbatch,
                      f"a divisor of a rank's share of diffusion.batch ({share})",
                      "Gradients of microbatches add up to those of the share.")  # fmt: skip


def _snapshots(params: Params) -> Iterator[Problem]:
    snapshot, duration = params.ema.snapshot_nimg, params.diffusion.duration_nimg
    if snapshot > duration:
        yield Problem("ema.snapshot_nimg", snapshot, f"at most diffusion.duration_nimg ({duration})",
                      "Take snapshots more often; eight or more in a training.")  # fmt: skip
    elif duration % snapshot:
        yield Problem("ema.snapshot_nimg", snapshot,
                      f"a divisor of diffusion.duration_nimg ({duration}), "
                      "so that a snapshot stands at the very end",
                      f"For example {duration // max(1, round(duration / snapshot))}.")  # fmt: skip
    if snapshot % params.diffusion.batch:
        yield Problem("ema.snapshot_nimg", snapshot,
                      f"a multiple of diffusion.batch ({params.diffusion.batch})",
                      _nearest(snapshot, params.diffusion.batch))  # fmt: skip


def _times(params: Params) -> Iterator[Problem]:
    """Times of averages, where snapshots of a training here stand."""
    if params.ema.source == "published":
        return
    snapshot, duration = params.ema.snapshot_nimg, params.diffusion.duration_nimg
    for nimg in params.sweep.nimg or ():
        if not snapshot <= nimg <= duration or nimg % snapshot:
            yield Problem("sweep.nimg", nimg,
                          f"times of snapshots, the multiples of ema.snapshot_nimg ({snapshot}) up "
                          f"to the end ({duration})",
                          f"{_nearest(min(nimg, duration), snapshot)} null: the end.")  # fmt: skip


def _sweep(params: Params, root: Path) -> Iterator[Problem]:
    sweep, ema = params.sweep, params.ema
    if bool(sweep.tensors) != (sweep.tensors_base is not None):
        yield Problem("sweep.tensors_base", sweep.tensors_base,
                      "an EMA length with sweep.tensors, and null without",
                      "The best length of the curve for all tensors is a good one.")  # fmt: skip
    if len(set(sweep.tensors)) != len(sweep.tensors):
        yield Problem(
            "sweep.tensors", list(sweep.tensors), "each pattern once", "Remove the repeated."
        )
    if ema.source == "published":
        if ema.path is None or not (root / ema.path).is_dir():
            yield Problem("ema.path", ema.path, "the folder of published pickles (source: published)",
                          "Set it to a folder of .pkl files of one network.")  # fmt: skip
        if set(params.configs) != {"G"}:
            yield Problem("configs", list(params.configs), "[G] with ema.source: published",
                          "The published networks are of config G.")  # fmt: skip
    elif ema.path is not None:
        yield Problem("ema.path", ema.path, "null with source: training",
                      "Set it to null, or set ema.source to published.")  # fmt: skip
    for key, lengths in (("ema.sigma_rels", ema.sigma_rels), ("sweep.sigma_rel", sweep.sigma_rel),
                         ("sweep.nimg", sweep.nimg or ())):  # fmt: skip
        if any(b - a <= 1e-9 for a, b in pairwise(lengths)):
            yield Problem(key, list(lengths), "values in rising order, each once", "Sort them.")


def _evaluation(params: Params) -> Iterator[Problem]:
    if params.sampling.sigma_min >= params.sampling.sigma_max:
        yield Problem("sampling.sigma_min", params.sampling.sigma_min,
                      f"a value below sampling.sigma_max ({params.sampling.sigma_max})",
                      "The paper has 0.002 and 80.")  # fmt: skip
    if params.evaluation.samples <= params.features.dims:
        yield Problem("evaluation.samples", params.evaluation.samples,
                      f"more than features.dims ({params.features.dims}): with fewer samples than "
                      "dimensions the covariance is singular", "Use at least twice as many.")  # fmt: skip


def _guidance(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """What is asked of the guide, and what goes with which kind of guide."""
    guidance, kind = params.guidance, params.guidance.guide
    unused = {"none": ("interval", "sigma_rel", "nimg", "changes", "path"),
              "unlabelled": ("sigma_rel", "nimg", "changes", "path"),
              "snapshot": ("changes", "path"), "trained": ("path",), "published": ()}  # fmt: skip
    for name in unused[kind]:
        value = getattr(guidance, name)
        if value:
            empty = "{}" if name == "changes" else "null"
            yield Problem(f"guidance.{name}", value, f"{empty} with guidance.guide: {kind}",
                          "Name another guide, or empty the field.")  # fmt: skip
    if kind == "none" and guidance.strength != (1.0,):
        yield Problem("guidance.strength", list(guidance.strength), "[1.0] with guide: none",
                      "Name a guide: unlabelled, snapshot, trained or published.")  # fmt: skip
    if any(b - a <= 1e-9 for a, b in pairwise(guidance.strength)):
        yield Problem("guidance.strength", list(guidance.strength),
                      "values in rising order, each once", "Sort them.")  # fmt: skip
    if guidance.interval is not None and guidance.interval[0] >= guidance.interval[1]:
        yield Problem("guidance.interval", list(guidance.interval), "[low, high], low below high",
                      "null means all noise levels.")  # fmt: skip
    if kind == "snapshot" and guidance.sigma_rel is None and guidance.nimg is None:
        yield Problem("guidance.sigma_rel, guidance.nimg", (None, None),
                      "one of them with guide: snapshot",
                      "A network that guides itself changes nothing.")  # fmt: skip
    if kind == "published" and (guidance.path is None or not (root / guidance.path).is_dir()):
        yield Problem("guidance.path", guidance.path, "the folder of published pickles",
                      "Set it to a folder of .pkl files of one network.")  # fmt: skip
    if kind == "trained" and not guidance.changes:
        yield Problem("guidance.changes", {}, "fields in which the guide's training differs",
                      "{conditional: false} trains an unconditional guide.")  # fmt: skip
    if "per_config" in guidance.changes:
        yield Problem("guidance.changes.per_config", guidance.changes["per_config"],
                      "other fields of `diffusion`", "Remove it.")  # fmt: skip
    elif kind == "trained":
        yield from _guide_training(params, world_size, root)


def _guide_training(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """What would keep the guide from being trained, each problem once."""
    found: dict[str, Problem] = {}
    for config in params.configs:
        own = params.guide_of(config)
        for problem in (
            *_levels(own, root),
            *_training("diffusion", own.diffusion, world_size),
            *_denoiser(own, world_size),
            *_snapshots(own),
        ):
            found.setdefault(str(problem), problem)
    for problem in found.values():
        yield replace(problem, key=f"guidance.changes: {problem.key}")


def _guide(params: Params) -> Iterator[Problem]:
    """What the guide asks of a config's own training."""
    guidance, diffusion = params.guidance, params.diffusion
    if guidance.guide == "unlabelled" and not (diffusion.conditional and diffusion.label_dropout):
        yield Problem("diffusion.label_dropout", diffusion.label_dropout,
                      "above 0, with diffusion.conditional: true, for guide: unlabelled",
                      "0.1 is usual; or train an unconditional guide (guide: trained).")  # fmt: skip
    if guidance.nimg is not None and guidance.guide in ("snapshot", "trained"):
        trained = guidance.guide == "trained"
        last = diffusion.changed(guidance.changes if trained else {}).duration_nimg
        snapshot = params.ema.snapshot_nimg
        published = params.ema.source == "published" and not trained
        if not published and (guidance.nimg % snapshot or guidance.nimg > last):
            yield Problem("guidance.nimg", guidance.nimg,
                          f"a multiple of ema.snapshot_nimg ({snapshot}) up to {last}",
                          _nearest(guidance.nimg, snapshot))  # fmt: skip


def _nearest(value: int, step: int) -> str:
    below, above = value // step * step, math.ceil(value / step) * step
    if below == above:
        return f"Nearest: {below}."
    return f"Nearest: {f'{below} or ' if below else ''}{above}."


def project_root() -> Path:
    """The project that relative paths, state and the MLflow store belong to.

    DVC sets DVC_ROOT to the main checkout, also in an experiment's temporary one; without DVC it
    is the current folder.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()
