"""Combinations that cannot work with a source of latents: all that needs images."""

from collections.abc import Iterator

from edm2.params.errors import Problem
from edm2.params.seams import CODECS, DETECTORS
from edm2.params.tree import Params


def latent_source_problems(params: Params) -> Iterator[Problem]:
    """Fields that need images, all at once."""
    dataset, evaluation = params.dataset, params.evaluation
    given = f"with source: {dataset.source}"
    if dataset.held_out is not None:
        yield Problem(
            "dataset.held_out",
            dataset.held_out,
            f"null {given}",
            "Nothing can be measured with latents that are held out. Set it to null: all are trained on.",
        )
    if CODECS[params.codec.kind].save is None:
        kinds = ", ".join(name for name, kind in CODECS.items() if kind.save is not None)
        yield Problem(
            "codec.kind",
            params.codec.kind,
            f"one of {kinds} {given}",
            "There are no images to train a VAE with. Name the codec that made the latents; those of EDM2 "
            "are of stable_diffusion with codec.normalization: paper.",
        )
    if params.vae.images.shards is not None:
        yield Problem(
            "vae.images.shards",
            params.vae.images.shards,
            f"null {given}",
            "No VAE is trained or evaluated. Set it and vae.images.held_out to null.",
        )
    if not DETECTORS[evaluation.detector].published:
        published = " or ".join(name for name, kind in DETECTORS.items() if kind.published)
        yield Problem(
            "evaluation.detector",
            evaluation.detector,
            f"{published} {given}",
            "There are no images to train a classifier with, or to compute statistics of.",
        )
    if evaluation.reference is None:
        yield Problem(
            "evaluation.reference",
            None,
            f"a file of published statistics {given}",
            "There are no images to compute them from. EDM2 has img512.pkl for its latents.",
        )
