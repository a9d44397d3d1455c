"""Which metrics a measurement of images has, and whether there are enough images for them."""

from collections.abc import Iterable, Sequence

from edm2.features.backbone import Detector
from edm2.params import UserError
from edm2.params.evaluation import Evaluation, MetricName
from edm2.params.seams import DETECTORS, METRICS
from edm2.pipeline.reference_source import ReferenceSource
from edm2.runtime.messages import say


def metrics_of(evaluation: Evaluation) -> list[MetricName]:
    """Those that its detector can have."""
    classifies = DETECTORS[evaluation.detector].predicts_classes
    return [m for m in evaluation.metrics if classifies or not METRICS[m].predicts_classes]


def of_pairs(metrics: Iterable[MetricName]) -> list[MetricName]:
    """Those that need single features of real images."""
    return [m for m in metrics if METRICS[m].uses_features and METRICS[m].compares]


def require_possible_metrics(evaluations: Sequence[Evaluation], has_reference: bool) -> None:
    """Print which metrics some detectors cannot have.

    Raises:
        UserError: a metric that no detector can have, or one that needs a reference without one.
    """
    possible = {metric for evaluation in evaluations for metric in metrics_of(evaluation)}
    for metric in evaluations[0].metrics:
        if metric not in possible:
            fitting = ", ".join(name for name, kind in DETECTORS.items() if kind.predicts_classes)
            raise UserError(
                f"--metrics {metric}: expected a detector that predicts classes ({fitting}). Add it to "
                f"--detector, or leave {metric} out."
            )
        if METRICS[metric].uses_reference and not has_reference:
            raise UserError(
                f"--metrics {metric}: compares with real images. Name these, or a file of their "
                "statistics, by --reference."
            )
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            if metric not in metrics_of(evaluation):
                say(f"note: no {metric} with {evaluation.detector}, which predicts no classes")


def require_enough(
    detector: Detector,
    evaluation: Evaluation,
    path: str,
    count: int,
    source: ReferenceSource | None,
) -> None:
    """
    Args:
        path: where the images are that are measured.
        count: how many these are.

    Raises:
        UserError: too few images for a metric, or statistics without the features that it needs.
    """
    for metric in metrics_of(evaluation):
        minimum = evaluation.min_samples(metric, detector.dims)
        _require(metric, path, count, minimum, detector)
        if source is not None and METRICS[metric].uses_reference:
            real = _real_images(metric, source, detector)
            if not of_pairs([metric]):
                minimum = evaluation.min_samples("fd", detector.dims)
            if real is not None:
                _require(metric, source.path, real, minimum, detector)


def _real_images(metric: MetricName, source: ReferenceSource, detector: Detector) -> int | None:
    """How many images of the reference a metric can use; None: unknown.

    Raises:
        UserError: it needs features, and the reference has none.
    """
    if source.images is not None:
        return len(source.images)
    reference = source.by_detector[detector.name]
    if not of_pairs([metric]):
        return reference.count
    if not len(reference.features):
        raise UserError(
            f"--metrics {metric}: needs features of real images, and {source.path} has only their mean "
            f"and covariance. Leave {metric} out, or make a file with features from the real images: "
            f"`edm2 measure reference REAL_IMAGES --detector {detector.name} --out FILE.npz`."
        )
    return len(reference.features)


def _require(metric: MetricName, path: str, count: int, minimum: int, detector: Detector) -> None:
    if count >= minimum:
        return
    singular = (
        f" With no more images than the {detector.dims} dimensions of {detector.name} the covariance is "
        "singular: --allow-singular computes the distance all the same."
        if metric in ("fd", "fd_inf") and minimum > detector.dims
        else ""
    )
    raise UserError(
        f"{path}: {count} images: {metric} needs at least {minimum}. Use more images, or leave {metric} "
        f"out of --metrics.{singular}"
    )
