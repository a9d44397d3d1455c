"""Baselines of the Fréchet distance: held-out images and their reconstructions."""

from collections.abc import Iterator

import torch

from edm2.data.damage import warn_of_doubtful
from edm2.data.prepared import open_images
from edm2.metrics.statistics import distance, image_statistics, metric_name
from edm2.pipeline.detection import detector_for, reference_for
from edm2.pipeline.outputs import write_metrics
from edm2.pipeline.paths import IMAGES, VAE
from edm2.pipeline.runner import StageContext
from edm2.vae.codec import load_codec

BATCH = 256


def write_baselines(context: StageContext) -> None:
    """Distance of the held-out images and of their reconstructions to the training images.

    Names of metrics contain the number of held-out images. With no more of these than feature
    dimensions, the distance would be meaningless, and none is written.
    """
    detector = detector_for(context.params, context.device)
    reference = reference_for(detector)
    codec = load_codec(VAE, context.device)
    (held_out,) = open_images(IMAGES, "held_out")
    count, metrics = len(held_out), {}

    def originals() -> Iterator[torch.Tensor]:
        return (batch for batch, _ in held_out.batches(BATCH))

    def reconstructions() -> Iterator[torch.Tensor]:
        return (codec.decode(codec.encode(batch.to(context.device))[0]) for batch in originals())

    if count <= detector.dims:
        print(
            f"note: {count} held-out images are no more than the {detector.dims} feature "
            "dimensions: their Fréchet distance is left out."
        )
    else:
        for name, images in (("held_out", originals), ("reconstructions", reconstructions)):
            statistics = image_statistics(images(), count, detector, context.device)
            key = f"{name}/{metric_name(detector.name, count)}"
            allow_singular = context.params.evaluation.allow_singular
            metrics[key] = distance(statistics, reference, allow_singular)
    warn_of_doubtful(held_out.doubtful)
    write_metrics(context, "reports/baselines/metrics.json", metrics)
