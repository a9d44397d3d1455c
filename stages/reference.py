"""images, features → data/reference: what real images look like to the detector, once for all."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.detection import detector_of, fingerprint_of_images, outside
from stages.entry import Place, main

if TYPE_CHECKING:
    from edm2.data.images import ImageShards
    from edm2.features.backbone import Detector
    from edm2.metrics.collection import Collection

BATCH = 256


def work(place: Place) -> None:
    """See all training images with the detector, or take the published statistics that params name."""
    from edm2.metrics.reference import import_reference, save_reference
    from edm2.params.checks import project_root
    from edm2.runtime.distributed import ranks

    params, out = place.params, place.out("data/reference")
    published = params.evaluation.reference
    if published is None:
        _see(place, out)
    elif ranks().first:
        reference = import_reference(project_root() / published, params.detector_dims)
        print(f"note: {published} is compared with, of an unknown number of images.")
        save_reference(
            out, reference, detector=params.evaluation.detector, weights=None, images=None
        )


def _see(place: Place, out: Path) -> None:
    from edm2.data.images import ImageShards
    from edm2.metrics.reference import reference_of, save_reference
    from edm2.metrics.statistics import require_enough
    from edm2.runtime.distributed import gathered, ranks

    detector = detector_of(place.params, place.device)
    collection = _collected(ImageShards(Path("data/images"), "train"), detector, place)
    for other in gathered(collection)[1:]:
        collection.merge(other)
    if ranks().first:
        reference = reference_of(collection)
        # told here, before anything is trained; it changes nothing of what is made
        require_enough(reference, place.params.evaluation.allow_singular)
        save_reference(
            out,
            reference,
            detector=detector.name,
            weights=detector.fingerprint,
            images=fingerprint_of_images(),
        )


def _collected(train: "ImageShards", detector: "Detector", place: Place) -> "Collection":
    """This rank's share of all training images, numbered in an order that is random and always the
    same.
    """
    from edm2.metrics.collection import Collection
    from edm2.metrics.reference import KEPT
    from edm2.metrics.statistics import image_features
    from edm2.runtime.distributed import ranks
    from edm2.runtime.randomness import generator

    who, total = ranks(), len(train)
    numbers = generator(0, "evaluation/reference").permutation(total).tolist()
    parts = [numbers[k : k + BATCH] for k in range(0, total, BATCH)]
    mine = range(len(parts))[who.rank :: who.size]
    images = (train.batch(range(k * BATCH, k * BATCH + len(parts[k])))[0] for k in mine)
    collection = Collection(detector.dims, [total], KEPT)
    seen = image_features(images, sum(len(parts[k]) for k in mine), detector, place.device)
    for k, features in zip(mine, seen, strict=True):
        collection.add(parts[k], features)
    return collection


if __name__ == "__main__":
    main(work, outside)
