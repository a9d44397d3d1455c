"""Combinations of `sampling` and `evaluation` that cannot work."""

from collections.abc import Iterator
from pathlib import Path

from edm2.params.errors import Problem
from edm2.params.evaluation import Evaluation, Sampling
from edm2.params.tree import Params


def evaluation_problems(params: Params, root: Path) -> Iterator[Problem]:
    """Noise levels that do not fall, files that are not there, samples too few for a measure.

    Args:
        root: folder that relative paths start from.
    """
    if params.sampling.sigma_min >= params.sampling.sigma_max:
        yield Problem(
            "sampling.sigma_min",
            params.sampling.sigma_min,
            f"a value below sampling.sigma_max ({params.sampling.sigma_max})",
            "The paper has 0.002 and 80.",
        )
    yield from _churn(params.sampling)
    yield from _detector(params.evaluation, root)
    yield from _reference(params.evaluation, root)
    yield from _measures(params.evaluation, params.detector_dims)


def _detector(evaluation: Evaluation, root: Path) -> Iterator[Problem]:
    path = evaluation.detector_path
    if path is None:
        return
    if evaluation.detector == "classifier":
        yield Problem(
            "evaluation.detector_path",
            path,
            "null with detector: classifier",
            "Set it to null, or set evaluation.detector to inception or dinov2.",
        )
    elif not (root / path).is_file():
        yield Problem(
            "evaluation.detector_path",
            path,
            "a file that exists",
            f"Looked for {root / path}. Or set it to null: downloaded once.",
        )


def _reference(evaluation: Evaluation, root: Path) -> Iterator[Problem]:
    path = evaluation.reference
    if path is None:
        return
    if evaluation.detector == "classifier":
        yield Problem(
            "evaluation.reference",
            path,
            "null with detector: classifier",
            "It is trained here: no published statistics are of its features.",
        )
    elif Path(path).suffix != ".npz":
        yield Problem(
            "evaluation.reference",
            path,
            "an .npz file with mu and sigma",
            "Pickles are not read, as they can run anything; whoever trusts one saves "
            "its two arrays with numpy.savez(path, mu=..., sigma=...).",
        )
    elif not (root / path).is_file():
        yield Problem(
            "evaluation.reference",
            path,
            "a file that exists",
            f"Looked for {root / path}. Or set it to null: computed here.",
        )
    if set(evaluation.metrics) - {"fd", "is"}:
        yield Problem(
            "evaluation.metrics",
            list(evaluation.metrics),
            "fd and is alone with evaluation.reference",
            "Others need features of real images; published statistics have none.",
        )


def _measures(evaluation: Evaluation, dims: int) -> Iterator[Problem]:
    chosen, samples = evaluation.metrics, evaluation.samples
    whose = "features.dims" if evaluation.detector == "classifier" else evaluation.detector
    if "fd" not in chosen or len(set(chosen)) != len(chosen):
        yield Problem(
            "evaluation.metrics",
            list(chosen),
            "fd, and others, each once",
            "The EMA curve is drawn of the Fréchet distance.",
        )
    if "is" in chosen and evaluation.detector != "inception":
        yield Problem(
            "evaluation.metrics",
            list(chosen),
            "is with detector: inception alone",
            "It is defined by that network's classes; leave it out.",
        )
    if samples < evaluation.min_samples("fd", dims):
        if evaluation.allow_singular:
            yield Problem(
                "evaluation.samples", samples, "two or more: one has no covariance", "Use more."
            )
        else:
            yield Problem(
                "evaluation.samples",
                samples,
                f"more than the feature dimensions ({whose}: {dims}): with fewer samples "
                "the covariance is singular",
                "Use at least twice as many, or have the rows marked (evaluation.allow_singular).",
            )
    for measure in (m for m in chosen if m != "fd"):
        least = evaluation.min_samples(measure, dims)
        if samples < least:
            yield Problem(
                "evaluation.samples",
                samples,
                f"at least {least} for {measure}",
                "Use more, or leave it out of evaluation.metrics.",
            )


def _churn(sampling: Sampling) -> Iterator[Problem]:
    if sampling.churn_interval is None:
        return
    low, high = sampling.churn_interval
    if low >= high:
        yield Problem(
            "sampling.churn_interval",
            [low, high],
            "[low, high], low below high",
            "null means all noise levels.",
        )
    elif high < sampling.sigma_min or low > sampling.sigma_max:
        yield Problem(
            "sampling.churn_interval",
            [low, high],
            f"noise levels from sampling.sigma_min ({sampling.sigma_min}) to "
            f"sampling.sigma_max ({sampling.sigma_max})",
            "No step would add noise; null means all noise levels.",
        )
