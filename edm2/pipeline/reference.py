"""Statistics of the training images' features: the reference of all metrics."""

from typing import TYPE_CHECKING

import torch

from edm2.data.images import PreparedImages
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
from edm2.runtime.messages import counted
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
        count = "an unknown number of" if reference.count is None else counted(reference.count)
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
    collection = _collect(train, detector, context.device)
    if collection is not None:
        reference = build_reference(collection)
        # fail early, before anything is trained; the result does not change
        require_enough_images(reference, context.params.evaluation.allow_singular)
        save_reference(
            context.out(REFERENCE),
            reference,
            detector=detector.name,
            weights=detector.fingerprint,
            images=images_fingerprint(),
        )
        context.conclude(f"{detector.name} features of {counted(len(train))} images")


def _collect(
    train: PreparedImages, detector: "Detector", device: torch.device
) -> Collection | None:
    """Features of all training images, numbered in a random order that never changes; on the main process."""
    total = len(train)
    numbers = generator(0, "evaluation/reference").permutation(total)

    def collect(batch: range, pixels: torch.Tensor, _: torch.Tensor) -> Collection:
        collection = Collection(detector.dims, [total], MAX_KEPT_FEATURES)
        collection.add(
            numbers[batch.start : batch.stop], finite_features(detector, pixels.to(device))
        )
        return collection

    title = f"{detector.name} features"
    return reduce_batches(train, range(total), BATCH, collect, Collection.merge, title)
