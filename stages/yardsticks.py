"""What a Fréchet distance is to be held against: real images, and the codec's reconstructions."""

from collections.abc import Iterator

import torch

from edm2.data.images import ImageShards
from edm2.features.backbone import Detector
from edm2.metrics.statistics import distance, image_statistics, metric_name
from edm2.vae.codec import Codec

BATCH = 256


def reconstruction_distances(
    codec: Codec,
    images: ImageShards,
    held_out: ImageShards,
    detector: Detector,
    device: torch.device,
) -> dict[str, float]:
    """Distance to the training images of held-out ones, as they are and reconstructed.

    Both under the metric's full name, with the number of held-out images. Nothing is returned
    when those are no more than the feature dimensions: such a distance means nothing.
    """
    if len(held_out) <= detector.dims:
        print(f"{len(held_out)} held-out images are no more than the {detector.dims} feature "
              "dimensions: their Fréchet distance is left out.")  # fmt: skip
        return {}

    def reconstructed() -> Iterator[torch.Tensor]:
        for batch, _ in held_out.batches(BATCH):
            yield codec.decode(codec.encode(batch.to(device))[0])

    reference = image_statistics((batch for batch, _ in images.batches(BATCH)), detector, device)
    real = image_statistics((batch for batch, _ in held_out.batches(BATCH)), detector, device)
    decoded = image_statistics(reconstructed(), detector, device)
    name = metric_name(detector.name, len(held_out))
    return {f"held_out/{name}": distance(real, reference),
            f"reconstructions/{name}": distance(decoded, reference)}  # fmt: skip
