"""Combinations of `guidance` that cannot work."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from edm2.params.errors import Problem
from edm2.params.guidance import Guidance
from edm2.params.training_checks import (
    denoiser_problems,
    level_problems,
    nearest,
    snapshot_problems,
    training_problems,
)
from edm2.params.tree import Params

# fields that have no effect with a kind of guide
UNUSED = {
    "none": ("interval", "ema_length", "nimg", "changes", "path"),
    "unlabeled": ("ema_length", "nimg", "changes", "path"),
    "snapshot": ("changes", "path"),
    "trained": ("path",),
    "published": (),
}


def guidance_problems(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """Fields that do not fit the kind of guide, and what would fail in the guide's training."""
    yield from _unused_fields(params.guidance)
    yield from _wrong_values(params.guidance)
    yield from _missing_fields(params.guidance, root)
    if params.guidance.guide == "trained" and "per_config" not in params.guidance.changes:
        yield from _guide_training(params, world_size, root)


def _unused_fields(guidance: Guidance) -> Iterator[Problem]:
    kind = guidance.guide
    for name in UNUSED[kind]:
        value = getattr(guidance, name)
        if value:
            empty = "{}" if name == "changes" else "null"
            yield Problem(
                f"guidance.{name}",
                value,
                f"{empty} with guidance.guide: {kind}",
                f"Set it to {empty}, or choose another guide.",
            )
    if kind == "none" and guidance.strength != (1.0,):
        yield Problem(
            "guidance.strength",
            list(guidance.strength),
            "[1.0] with guide: none",
            "Choose a guide: unlabeled, snapshot, trained or published.",
        )


def _wrong_values(guidance: Guidance) -> Iterator[Problem]:
    if any(b - a <= 1e-9 for a, b in pairwise(guidance.strength)):
        yield Problem(
            "guidance.strength",
            list(guidance.strength),
            "values in ascending order, each once",
            "Sort them.",
        )
    if guidance.interval is not None and guidance.interval[0] >= guidance.interval[1]:
        yield Problem(
            "guidance.interval",
            list(guidance.interval),
            "[low, high], low below high",
            "null means all noise levels.",
        )
    if "per_config" in guidance.changes:
        yield Problem(
            "guidance.changes.per_config",
            guidance.changes["per_config"],
            "other fields of `diffusion`",
            "Remove it.",
        )


def _missing_fields(guidance: Guidance, root: Path) -> Iterator[Problem]:
    kind = guidance.guide
    if kind == "snapshot" and guidance.ema_length is None and guidance.nimg is None:
        yield Problem(
            "guidance.ema_length, guidance.nimg",
            (None, None),
            "at least one of them set with guide: snapshot",
            "A network that guides itself changes nothing.",
        )
    if kind == "published" and (guidance.path is None or not (root / guidance.path).is_dir()):
        yield Problem(
            "guidance.path",
            guidance.path,
            "the folder of published pickles",
            "Set it to a folder of .pkl files of one network.",
        )
    if kind == "trained" and not guidance.changes:
        yield Problem(
            "guidance.changes",
            {},
            "fields in which the guide's training differs",
            "{conditional: false} trains an unconditional guide.",
        )


def _guide_training(params: Params, world_size: int, root: Path) -> Iterator[Problem]:
    """Problems of the guide's training, each once."""
    problems: dict[str, Problem] = {}
    for config in params.configs:
        guide = params.guide_of(config)
        for problem in (
            *level_problems(guide, root),
            *training_problems("diffusion", guide, world_size),
            *denoiser_problems(guide),
            *snapshot_problems("ema", guide.ema, "diffusion", guide.diffusion),
        ):
            problems.setdefault(str(problem), problem)
    for problem in problems.values():
        yield replace(problem, key=f"guidance.changes: {problem.key}")


def guide_problems(params: Params) -> Iterator[Problem]:
    """What a guide needs from the training of the config."""
    guidance, diffusion = params.guidance, params.diffusion
    if guidance.guide == "unlabeled" and not (diffusion.conditional and diffusion.label_dropout):
        yield Problem(
            "diffusion.label_dropout",
            diffusion.label_dropout,
            "above 0, with diffusion.conditional: true, for guide: unlabeled",
            "0.1 is usual. Or train an unconditional guide (guide: trained).",
        )
    if guidance.nimg is not None and guidance.guide in ("snapshot", "trained"):
        trained = guidance.guide == "trained"
        last = diffusion.changed(guidance.changes if trained else {}).duration_nimg
        snapshot = params.ema.snapshot_nimg
        published = params.ema.source == "published" and not trained
        if not published and (guidance.nimg % snapshot or guidance.nimg > last):
            yield Problem(
                "guidance.nimg",
                guidance.nimg,
                f"a multiple of ema.snapshot_nimg ({snapshot}) up to {last}",
                nearest(guidance.nimg, snapshot),
            )
