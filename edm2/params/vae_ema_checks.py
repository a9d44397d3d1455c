"""Combinations of `vae.ema` that cannot work."""

from collections.abc import Iterator

from edm2.params.errors import Problem
from edm2.params.training_checks import ascending_problems, snapshot_problems
from edm2.params.vae import Vae


def vae_ema_problems(vae: Vae) -> Iterator[Problem]:
    ema = vae.ema
    yield from ascending_problems("vae.ema.ema_lengths", ema.ema_lengths)
    yield from ascending_problems("vae.ema.evaluate_lengths", ema.evaluate_lengths)
    if ema.ema_lengths:
        yield from snapshot_problems("vae.ema", ema, "vae", vae)
    elif ema.length is not None:
        yield Problem(
            "vae.ema.length",
            ema.length,
            "null with vae.ema.ema_lengths: []",
            "Track averages, for example [0.05, 0.1].",
        )
