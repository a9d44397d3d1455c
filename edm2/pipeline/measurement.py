"""Metrics of any images: what `edm2 measure` and `edm2 measure reference` do."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edm2.features.backbone import Detector
from edm2.metrics.collection import Collection
from edm2.metrics.reference import MAX_KEPT_FEATURES, NO_REFERENCE, Reference, build_reference
from edm2.metrics.reference_file import write_reference_file
from edm2.metrics.registry import MetricInputs, compute_metric
from edm2.metrics.statistics import metric_name
from edm2.params import UserError
from edm2.params.evaluation import MetricName
from edm2.params.seams import METRICS
from edm2.pipeline.measured_images import FeatureOptions, features_of, load_detectors, open_images
from edm2.pipeline.measurement_checks import (
    metrics_of,
    of_pairs,
    require_enough,
    require_possible_metrics,
)
from edm2.pipeline.reference_source import ReferenceSource, open_reference, require_existing
from edm2.runtime.device import pick_device
from edm2.runtime.distributed import on_main_process, process_group
from edm2.runtime.messages import say

KEY = "IMAGES"
Row = dict[str, Any]


@dataclass(frozen=True)
class MeasureRequest:
    """A request for metrics of images.

    Attributes:
        images, reference: see `open_unlabeled` and `open_reference`.
        samples: how many of the first images; None: all.
    """

    images: str
    reference: str | None
    samples: int | None
    options: FeatureOptions

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        return self.options.evaluations[0].metrics


@dataclass(frozen=True)
class Measurement:
    """Metrics of images.

    Attributes:
        images: where they are.
        resolution: their side in pixels, after resizing.
        detectors: SHA-256 of the weights of each detector, by its name.
        rows: one for each metric, by its full name.
    """

    images: str
    reference: str | None
    resolution: int
    detectors: dict[str, str]
    rows: list[Row]


def measure(request: MeasureRequest) -> Measurement | None:
    """The metrics of images; None on other ranks than the main process.

    Every rank of the launch extracts features of a part of the images. The results are the same bits on any
    number of ranks.

    Raises:
        UserError: images that cannot be read or have other sizes, weights that cannot be had, a metric that
            needs more images, or features of a reference that has none.
    """
    options = request.options
    require_possible_metrics(options.evaluations, request.reference is not None)
    device = pick_device(options.runtime)
    with process_group(device, options.runtime.timeout_minutes):
        images = open_images(request.images, KEY, options, request.samples)
        on_main_process(lambda: require_existing(request.reference))
        detectors = load_detectors(options, device)
        source = _open_reference(request, detectors)
        if source is not None and source.resolution not in (None, images.resolution):
            raise UserError(
                f"{KEY}: {request.images}: {_square(images.resolution)}, but those of {source.path} have "
                f"{_square(source.resolution)}. Use --resize {source.resolution}."
            )

        def check() -> None:
            for detector, evaluation in zip(detectors, options.evaluations, strict=True):
                require_enough(detector, evaluation, request.images, len(images), source)

        on_main_process(check)
        kept = len(images) if any(METRICS[m].uses_features for m in request.metrics) else 0
        collections = features_of(images, detectors, options, device, kept)
        references = _references(request, source, detectors, device)
        if collections is None:
            return None
        return Measurement(
            request.images,
            request.reference,
            images.resolution,
            {detector.name: detector.fingerprint for detector in detectors},
            list(_rows(request, detectors, collections, references, len(images), device)),
        )


def write_reference(path: str, options: FeatureOptions, out: Path) -> None:
    """Write the reference of images for some detectors to one file; each rank reads a part of the images.

    Raises:
        UserError: images that cannot be read or have other sizes, too few of them, or weights that cannot be
            had.
    """
    device = pick_device(options.runtime)
    with process_group(device, options.runtime.timeout_minutes):
        images = open_images(path, KEY, options)
        if len(images) < 2:
            raise UserError(
                f"{KEY}: {path}: one image has no covariance. Use more, of all classes."
            )
        detectors = load_detectors(options, device)
        collections = features_of(images, detectors, options, device, MAX_KEPT_FEATURES)
        if collections is not None:
            write_reference_file(
                out,
                {name: build_reference(collection) for name, collection in collections.items()},
                {detector.name: detector.fingerprint for detector in detectors},
                images.resolution,
            )
            names = ", ".join(collections)
            say(f"{out}: moments of {len(images):,} images, and their features ({names})")


def _open_reference(request: MeasureRequest, detectors: list[Detector]) -> ReferenceSource | None:
    if request.reference is None:
        return None
    with_features = bool(of_pairs(request.metrics))
    return open_reference(request.reference, detectors, request.options, with_features)


def _references(
    request: MeasureRequest,
    source: ReferenceSource | None,
    detectors: list[Detector],
    device: torch.device,
) -> Mapping[str, Reference]:
    """The reference of each detector, on the main process."""
    if source is None:
        return {detector.name: NO_REFERENCE for detector in detectors}
    if source.images is None:
        return source.by_detector
    kept = MAX_KEPT_FEATURES if of_pairs(request.metrics) else 0
    collections = features_of(source.images, detectors, request.options, device, kept)
    return {name: build_reference(collection) for name, collection in (collections or {}).items()}


def _rows(
    request: MeasureRequest,
    detectors: list[Detector],
    collections: Mapping[str, Collection],
    references: Mapping[str, Reference],
    count: int,
    device: torch.device,
) -> Iterator[Row]:
    for detector, evaluation in zip(detectors, request.options.evaluations, strict=True):
        for metric in metrics_of(evaluation):
            inputs = MetricInputs(
                collections[detector.name],
                references[detector.name],
                count,
                evaluation,
                detector,
                device,
            )
            value = asdict(compute_metric(metric, inputs))
            yield {
                "metric": metric_name(detector.name, count, metric),
                **value,
                "detector": detector.name,
                "images": count,
            }


def _square(side: int | None) -> str:
    return f"{side}×{side} pixels"
