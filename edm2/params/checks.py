"""Combinations of params that cannot work."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from edm2.params.codec_checks import backbone_problems, codec_problems, latent_layout
from edm2.params.dataset_checks import dataset_problems, image_path_problems, vae_image_problems
from edm2.params.errors import Problem
from edm2.params.evaluation_checks import evaluation_problems
from edm2.params.guidance_checks import guidance_problems, guide_problems
from edm2.params.latents_checks import latent_source_problems
from edm2.params.patterns import are_tars, hint
from edm2.params.resolution import contradictions, resolve
from edm2.params.seams import DETECTORS, VAE_BACKBONES
from edm2.params.search_checks import search_problems
from edm2.params.tracking_checks import tracking_problems
from edm2.params.training_checks import (
    ascending_problems,
    denoiser_problems,
    level_problems,
    nearest,
    snapshot_problems,
    time_problems,
    training_problems,
)
from edm2.params.tree import Params
from edm2.params.vae_checks import vae_problems

COMPILERS, C_COMPILERS = ("g++", "clang++", "c++"), ("gcc", "clang", "cc")  # C ones: for GPUs
MIN_RESOLUTION = 7  # side of the windows of structural similarity, in pixels


def wrong_combinations(params: Params, ranks: Mapping[str, int], root: Path) -> Iterator[Problem]:
    """All wrong combinations of `params`.

    Args:
        ranks: number of processes of each stage.
        root: folder that relative paths start from.
    """
    yield from dataset_problems(params.dataset, root)
    if not params.dataset.has_images:
        yield from latent_source_problems(params)
    yield from _configs(params)
    yield from codec_problems(params, root)
    yield from backbone_problems(params, root)
    yield from _resolutions(params, root)
    yield from _slices(params)
    yield from vae_image_problems(params.vae.images, root)
    yield from _skip_images(params, root)
    yield from training_problems("features", params, ranks["train_features"])
    if params.codec.kind == "trained":
        yield from vae_problems(params, root)
        yield from training_problems("vae", params, ranks["train_vae"])
    yield from _per_config(params, ranks["train_diffusion"], root)
    yield from _sweep(params)
    yield from _published(params, root)
    yield from search_problems(params)
    yield from evaluation_problems(params, root)
    yield from _compiler(params)
    yield from guidance_problems(params, ranks["train_guide"], root)
    yield from tracking_problems(params, root)


def wrong_vae_combinations(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """As `wrong_combinations`, for a VAE that is trained without a project, whose params have no effect.

    Its images may also be in folders.
    """
    for key, names in (("backbone", VAE_BACKBONES), ("detector", DETECTORS)):
        if getattr(params.vae, key) != "classifier":
            continue
        others = [name for name in names if name != "classifier"]
        yield Problem(
            f"vae.{key}",
            "classifier",
            f"a network that is trained already: {', '.join(others)}",
            "The classifier is one of a project, which trains it on labeled images.",
        )
    yield from backbone_problems(params, root)
    yield from _resolutions(params, root)
    yield from image_path_problems(params.vae.images, root)
    yield from _skip_images(params, root)
    yield from vae_problems(params, root)
    yield from training_problems("vae", params, world_size)
    yield from _compiler(params)
    yield from tracking_problems(params, root)


def _per_config(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """Problems of single configs, with their names unless all configs have the problem."""
    problems: dict[str, tuple[Problem, list[str]]] = {}
    for config in params.configs:
        merged = params.of(config)
        for problem in (
            *level_problems(merged, root),
            *training_problems("diffusion", merged, world_size),
            *denoiser_problems(merged),
            *snapshot_problems("ema", merged.ema, "diffusion", merged.diffusion),
            *time_problems(merged),
            *guide_problems(merged),
            *contradictions(resolve(config, params.diffusion)),
        ):
            problems.setdefault(str(problem), (problem, []))[1].append(config)
    for problem, configs in problems.values():
        from_entries = params.diffusion.per_config.keys() >= set(configs)
        common = not from_entries and len(configs) == len(params.configs)
        names = "" if common else f" (config {', '.join(configs)})"
        yield replace(problem, key=problem.key + names)
    for config, changes in params.diffusion.per_config.items():
        if "per_config" in changes:
            yield Problem(
                f"diffusion.per_config.{config}.per_config",
                changes["per_config"],
                "other fields of `diffusion`",
                "Remove it.",
            )


def _configs(params: Params) -> Iterator[Problem]:
    if len(set(params.configs)) != len(params.configs):
        yield Problem("configs", list(params.configs), "each config once", "Remove the duplicates.")
    if len(set(params.seeds)) != len(params.seeds):
        yield Problem("seeds", list(params.seeds), "each seed once", "Remove the duplicates.")


def _resolutions(params: Params, root: Path) -> Iterator[Problem]:
    resolution, layout = params.dataset.resolution, latent_layout(params, root)
    if layout is not None and resolution % layout[0]:
        reason = (
            f"vae.channel_mult has {len(params.vae.channel_mult)} levels, each after the first "
            "halves it" + ", and vae.high_resolution once more" * params.vae.high_resolution
            if params.codec.kind == "trained"
            else "the downscaling of the codec"
        )
        yield Problem(
            "dataset.resolution",
            resolution,
            f"a multiple of {layout[0]} ({reason})",
            nearest(resolution, layout[0]),
        )
    if resolution < MIN_RESOLUTION:
        yield Problem(
            "dataset.resolution",
            resolution,
            f"at least {MIN_RESOLUTION}",
            "Structural similarity compares reconstructions in windows of that size.",
        )


def _slices(params: Params) -> Iterator[Problem]:
    resolution = params.dataset.resolution
    if resolution % 2 ** (params.features.slices - 1):
        yield Problem(
            "features.slices",
            params.features.slices,
            f"slices that halve {resolution} evenly",
            "Use fewer slices.",
        )


def _skip_images(params: Params, root: Path) -> Iterator[Problem]:
    path, images = params.runtime.skip_images, params.vae.images
    places = [root / place for place in (images.shards, images.held_out) if place is not None]
    if path is not None and not any(map(are_tars, places)):
        yield Problem(
            "runtime.skip_images",
            path,
            "null without tars in vae.images.shards: it lists images in tars",
            "Set it to null, and remove damaged images from their folder or zip.",
        )
    elif path is not None and not (root / path).is_file():
        yield Problem(
            "runtime.skip_images",
            path,
            "a file that exists",
            f"Looked for {root / path}{hint(path, root / path)}.",
        )


def _sweep(params: Params) -> Iterator[Problem]:
    """Problems of the EMA lengths, times and tensors."""
    sweep, ema = params.sweep, params.ema
    if bool(sweep.tensors) != (sweep.tensors_base is not None):
        yield Problem(
            "sweep.tensors_base",
            sweep.tensors_base,
            "an EMA length with sweep.tensors, and null without",
            "The best EMA length of whole networks is a good choice.",
        )
    if len(set(sweep.tensors)) != len(sweep.tensors):
        yield Problem(
            "sweep.tensors", list(sweep.tensors), "each pattern once", "Remove the duplicates."
        )
    for key, lengths in (
        ("ema.ema_lengths", ema.ema_lengths),
        ("sweep.ema_lengths", sweep.ema_lengths),
        ("sweep.nimg", sweep.nimg or ()),
    ):
        yield from ascending_problems(key, lengths)


def _published(params: Params, root: Path) -> Iterator[Problem]:
    """Problems of published networks: where they are, and what else there can be beside them."""
    ema = params.ema
    if ema.source == "published":
        if ema.path is None or not (root / ema.path).is_dir():
            yield Problem(
                "ema.path",
                ema.path,
                "the folder of published pickles (source: published)",
                "Set it to a folder of .pkl files of one network.",
            )
        if set(params.configs) != {"G"}:
            yield Problem(
                "configs",
                list(params.configs),
                "[G] with ema.source: published",
                "The published networks are of config G.",
            )
        if len(params.seeds) > 1:
            yield Problem(
                "seeds",
                list(params.seeds),
                "one seed with ema.source: published",
                "The published networks are of one training.",
            )
    elif ema.path is not None:
        yield Problem(
            "ema.path",
            ema.path,
            "null with source: training",
            "Set it to null, or set ema.source to published.",
        )


def _compiler(params: Params) -> Iterator[Problem]:
    """torch.compile needs a compiler, and would fail only at the first step of a training."""
    runtime = params.runtime
    known = COMPILERS if runtime.device == "cpu" else (*COMPILERS, *C_COMPILERS)
    if runtime.compile and not any(map(shutil.which, (*known, os.environ.get("CXX", "")))):
        yield Problem(
            "runtime.compile",
            True,
            f"a compiler to be installed: one of {', '.join(known)}, or that of CXX",
            "Install g++ (package g++ or gcc-c++), or set it to false.",
        )


def project_root() -> Path:
    """The root of the project: relative paths, state and the MLflow store start from it.

    DVC sets DVC_ROOT to the main checkout, also in the temporary checkout of an experiment; without
    DVC it is the current folder.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()
