"""Statistics of the training images' features: the reference of all metrics."""

from typing import TYPE_CHECKING

from edm2.data.images import PreparedImages
from edm2.data.prepared import open_images
from edm2.metrics.collection import Collection
from edm2.metrics.reference import (
    MAX_KEPT_FEATURES,
    build_reference,
    import_reference,
    save_reference,
)
from edm2.metrics.statistics import image_features, require_enough_images
from edm2.params.checks import project_root
from edm2.pipeline.detection import detector_for, images_fingerprint
from edm2.pipeline.paths import IMAGES, REFERENCE
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import gather_object, is_main_process, ranks
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
        reference = import_reference(project_root() / path, context.params.detector_dims)
        print(f"note: metrics compare with {path}, statistics of an unknown number of images.")
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
    collection = _collect(train, detector, context)
    for other in gather_object(collection)[1:]:
        collection.merge(other)
    if is_main_process():
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


def _collect(train: PreparedImages, detector: "Detector", context: StageContext) -> Collection:
    """This rank's share of all training images, numbered in a random order that never changes."""
    rank, size, total = ranks().rank, ranks().world_size, len(train)
    numbers = generator(0, "evaluation/reference").permutation(total).tolist()
    batches = [numbers[k : k + BATCH] for k in range(0, total, BATCH)]
    share = range(len(batches))[rank::size]
    images = (train.batch(range(k * BATCH, k * BATCH + len(batches[k])))[0] for k in share)
    collection = Collection(detector.dims, [total], MAX_KEPT_FEATURES)
    count = sum(len(batches[k]) for k in share)
    for k, features in zip(
        share, image_features(images, count, detector, context.device), strict=True
    ):
        collection.add(batches[k], features)
    return collection
