"""images, vae, reference → reports/yardsticks: what a Fréchet distance is to be held against."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.detection import detector_of, outside, reference_for
from stages.entry import Place, main

if TYPE_CHECKING:
    import torch

BATCH = 256


def work(place: Place) -> None:
    """Distance to the training images of held-out ones, as they are and reconstructed.

    Both under the metric's full name, with the number of held-out images. There are none when those
    are no more than the feature dimensions: such a distance means nothing.
    """
    from edm2.data.images import ImageShards
    from edm2.metrics.statistics import distance, image_statistics, metric_name
    from edm2.vae.codec import load_codec
    from stages.reports import write_metrics

    detector = detector_of(place.params, place.device)
    reference = reference_for(detector)
    codec = load_codec(Path("models/vae"), place.device)
    held_out = ImageShards(Path("data/images"), "held_out")
    count, found = len(held_out), {}

    def originals() -> Iterator["torch.Tensor"]:
        return (batch for batch, _ in held_out.batches(BATCH))

    def reconstructions() -> Iterator["torch.Tensor"]:
        return (codec.decode(codec.encode(batch.to(place.device))[0]) for batch in originals())

    if count <= detector.dims:
        print(
            f"note: {count} held-out images are no more than the {detector.dims} feature "
            "dimensions: their Fréchet distance is left out."
        )
    else:
        for name, images in (("held_out", originals), ("reconstructions", reconstructions)):
            seen = image_statistics(images(), count, detector, place.device)
            key = f"{name}/{metric_name(detector.name, count)}"
            found[key] = distance(seen, reference, place.params.evaluation.allow_singular)
    write_metrics(place, "reports/yardsticks/metrics.json", found)


if __name__ == "__main__":
    main(work, outside)
