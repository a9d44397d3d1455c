"""Combinations of `sampling` and `evaluation` that cannot work."""

from collections.abc import Iterator
from pathlib import Path

from edm2.params.errors import Problem
from edm2.params.evaluation import Evaluation, Sampling
from edm2.params.seams import DETECTORS, METRICS
from edm2.params.tree import Params

REFERENCES = (".npz", ".pkl")  # suffixes of files that `edm2.metrics.reference` reads


def evaluation_problems(params: Params, root: Path) -> Iterator[Problem]:
    """Noise levels that do not decrease, missing files, too few samples for a metric.

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
    evaluation = params.evaluation
    yield from detector_path_problems(
        "evaluation", evaluation.detector, evaluation.detector_path, root
    )
    yield from _reference(params.evaluation, root)
    yield from _metrics(params.evaluation, params.detector_dims)


def detector_path_problems(
    section: str, name: str | None, path: str | None, root: Path
) -> Iterator[Problem]:
    """A `detector_path` beside a detector without published weights, or that does not exist.

    Args:
        section: of the params, which has both.
        name: the detector; None: none.
        root: folder that relative paths start from.
    """
    if path is None:
        return
    if name is None or not DETECTORS[name].published:
        yield Problem(
            f"{section}.detector_path",
            path,
            f"null with detector: {name or 'null'}",
            f"Set it to null, or set {section}.detector to inception or dinov2.",
        )
    elif not (root / path).is_file():
        yield Problem(
            f"{section}.detector_path",
            path,
            "a file that exists",
            f"Looked for {root / path}. Or set it to null: downloaded once.",
        )


def _reference(evaluation: Evaluation, root: Path) -> Iterator[Problem]:
    path, name = evaluation.reference, evaluation.detector
    if path is None:
        return
    if not DETECTORS[name].published:
        yield Problem(
            "evaluation.reference",
            path,
            f"null with detector: {name}",
            "There are no published statistics of its features; set it to null.",
        )
    elif Path(path).suffix not in REFERENCES:
        yield Problem(
            "evaluation.reference",
            path,
            "an .npz file with mu and sigma, or EDM2's .pkl",
            "Save the mean and covariance of another file with numpy.savez(path, mu=..., sigma=...).",
        )
    elif not (root / path).is_file():
        yield Problem(
            "evaluation.reference",
            path,
            "a file that exists",
            f"Looked for {root / path}. Or set it to null: computed here.",
        )
    if any(METRICS[m].uses_features and METRICS[m].compares for m in evaluation.metrics):
        yield Problem(
            "evaluation.metrics",
            list(evaluation.metrics),
            "only fd and is with evaluation.reference",
            "The others need features of real images, which published statistics do not have.",
        )


def _metrics(evaluation: Evaluation, dims: int) -> Iterator[Problem]:
    metrics, samples, detector = evaluation.metrics, evaluation.samples, evaluation.detector
    if "fd" not in metrics or len(set(metrics)) != len(metrics):
        yield Problem(
            "evaluation.metrics",
            list(metrics),
            "fd and any others, each once",
            "The EMA curve shows the Fréchet distance.",
        )
    for metric in metrics:
        if METRICS[metric].predicts_classes and not DETECTORS[detector].predicts_classes:
            classifying = ", ".join(
                name for name, kind in DETECTORS.items() if kind.predicts_classes
            )
            yield Problem(
                "evaluation.metrics",
                list(metrics),
                f"{metric} only with a detector that predicts classes ({classifying})",
                f"Leave {metric} out, or change evaluation.detector.",
            )
    if samples < evaluation.min_samples("fd", dims):
        if evaluation.allow_singular:
            yield Problem(
                "evaluation.samples", samples, "two or more: one has no covariance", "Use more."
            )
        else:
            source = "features.dims" if DETECTORS[detector].dims is None else detector
            yield Problem(
                "evaluation.samples",
                samples,
                f"more than the feature dimensions ({source}: {dims}): with fewer samples "
                "the covariance is singular",
                "Use at least twice as many, or set evaluation.allow_singular to true, which marks the rows.",
            )
    for metric in (m for m in metrics if m != "fd"):
        minimum = evaluation.min_samples(metric, dims)
        if samples < minimum:
            yield Problem(
                "evaluation.samples",
                samples,
                f"at least {minimum} for {metric}",
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
