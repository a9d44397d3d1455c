"""Statistics of the training images' features: the reference of all metrics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from edm2.data.images import ImageDataset
from edm2.data.passes import reduce_batches
from edm2.data.prepared import open_images
from edm2.metrics.collection import Collection
from edm2.metrics.reference import (
    MAX_KEPT_FEATURES,
    build_reference,
    import_reference,
    save_reference,
)
from edm2.metrics.statistics import finite_features, require_enough_images
from edm2.params.checks import project_root
from edm2.pipeline.detection import detector_for, images_fingerprint
from edm2.pipeline.paths import IMAGES, REFERENCE
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.runtime.randomness import generator

if TYPE_CHECKING:
    from edm2.features.backbone import Detector

BATCH = 256


def write_reference(context: StageContext) -> None:
    """Extract features of all training images, or import the statistics in evaluation.reference."""
    path = context.params.evaluation.reference
    if path is None:
        _compute(context)
    elif is_main_process():
        reference = import_reference(
            project_root() / path, context.params.detector_dims, context.params.evaluation.detector
        )
        count = "an unknown number of" if reference.count is None else f"{reference.count:,}"
        print(f"note: metrics compare with {path}, statistics of {count} images.")
        context.conclude(f"statistics of {path}")
        save_reference(
            context.out(REFERENCE),
            reference,
            detector=context.params.evaluation.detector,
            weights=None,
            images=None,
        )


def _compute(context: StageContext) -> None:
    detector = detector_for(context.params, context.device)
    (train,) = open_images(IMAGES, "train")
    collected = collect_features(train, [detector], context.device, MAX_KEPT_FEATURES, BATCH)
    if collected is not None:
        reference = build_reference(collected[detector.name])
        # fail early, before anything is trained; the result does not change
        require_enough_images(reference, context.params.evaluation.allow_singular)
        save_reference(
            context.out(REFERENCE),
            reference,
            detector=detector.name,
            weights=detector.fingerprint,
            images=images_fingerprint(),
        )
        context.conclude(f"{detector.name} features of {len(train):,} images")


def collect_features(
    images: ImageDataset,
    detectors: Sequence["Detector"],
    device: torch.device,
    kept: int,
    batch_size: int,
) -> dict[str, Collection] | None:
    """Features of all images by the detectors' names, numbered in a random order that never changes; on the
    main process, None on the others.

    Args:
        kept: how many of the first features are kept besides the moments of all.
        batch_size: images that are read at a time.

    Raises:
        UserError: see `reduce_batches` and `finite_features`.
    """
    total = len(images)
    numbers = generator(0, "evaluation/reference").permutation(total)

    def collect(batch: range, pixels: torch.Tensor, _: torch.Tensor) -> dict[str, Collection]:
        pixels, collections = pixels.to(device), {}
        for detector in detectors:
            collection = Collection(detector.dims, [total], kept)
            collection.add(numbers[batch.start : batch.stop], finite_features(detector, pixels))
            collections[detector.name] = collection
        return collections

    def merge(a: dict[str, Collection], b: dict[str, Collection]) -> dict[str, Collection]:
        return {name: a[name].merge(b[name]) for name in a}

    title = f"{', '.join(detector.name for detector in detectors)} features"
    return reduce_batches(images, range(total), batch_size, collect, merge, title)
