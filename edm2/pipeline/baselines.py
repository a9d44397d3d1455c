"""Baselines of the Fréchet distance: held-out images and their reconstructions."""

import torch

from edm2.data.damage import warn_of_doubtful
from edm2.data.images import PreparedImages
from edm2.data.passes import reduce_batches
from edm2.data.prepared import has_images, open_images
from edm2.features.backbone import Detector
from edm2.metrics.statistics import Statistics, distance, finite_features, metric_name
from edm2.pipeline.detection import detector_for, reference_for
from edm2.pipeline.outputs import note_without_images, write_metrics
from edm2.pipeline.paths import IMAGES, VAE
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.vae.codec import Codec, load_codec

BATCH = 256
METRICS = "reports/baselines/metrics.json"


def write_baselines(context: StageContext) -> None:
    """Distance of the held-out images and of their reconstructions to the training images.

    Names of metrics contain the number of held-out images. With no more of these than feature
    dimensions, the distance would be meaningless, and none is written; nor without images.
    """
    if not has_images(IMAGES):
        note_without_images("there are none to measure")
        if is_main_process():
            write_metrics(context, METRICS, {})
        return
    detector = detector_for(context.params, context.device)
    reference = reference_for(detector)
    codec = load_codec(VAE, context.device)
    (held_out,) = open_images(IMAGES, "held_out")
    count, metrics = len(held_out), {}
    if count > detector.dims:
        for name, statistics in _collect(held_out, detector, codec, context.device).items():
            key = f"{name}/{metric_name(detector.name, count)}"
            allow_singular = context.params.evaluation.allow_singular
            metrics[key] = distance(statistics, reference, allow_singular)
    elif is_main_process():
        print(
            f"note: {count} held-out images are no more than the {detector.dims} feature "
            "dimensions: their Fréchet distance is left out."
        )
    warn_of_doubtful(held_out.doubtful)
    if is_main_process():
        write_metrics(context, METRICS, metrics)
        context.conclude(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def _collect(
    held_out: PreparedImages, detector: Detector, codec: Codec, device: torch.device
) -> dict[str, Statistics]:
    """Of the features of held-out images and of their reconstructions; empty if not the main process."""

    def compute(_: range, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, Statistics]:
        pixels = pixels.to(device)
        sets = {"held_out": pixels, "reconstructions": codec.decode(codec.encode(pixels)[0])}
        return {
            name: Statistics.of(finite_features(detector, images)) for name, images in sets.items()
        }

    def merge(a: dict[str, Statistics], b: dict[str, Statistics]) -> dict[str, Statistics]:
        return {name: a[name].merge(b[name]) for name in a}

    title = f"{detector.name} features"
    return reduce_batches(held_out, range(len(held_out)), BATCH, compute, merge, title) or {}
