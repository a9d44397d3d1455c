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

    def originals(shards: ImageShards) -> Iterator[torch.Tensor]:
        return (batch for batch, _ in shards.batches(BATCH))

    def reconstructed() -> Iterator[torch.Tensor]:
        for batch in originals(held_out):
            yield codec.decode(codec.encode(batch.to(device))[0])

    count = len(held_out)
    reference = image_statistics(originals(images), len(images), detector, device)
    real = image_statistics(originals(held_out), count, detector, device)
    decoded = image_statistics(reconstructed(), count, detector, device)
    name = metric_name(detector.name, count)
    return {f"held_out/{name}": distance(real, reference),
            f"reconstructions/{name}": distance(decoded, reference)}  # fmt: skip
