"""The Fréchet distance between held-out images and their reconstructions."""

from dataclasses import dataclass
from pathlib import Path

import torch

from edm2.data.images import ImageDataset, max_batch_size
from edm2.data.passes import reduce_batches
from edm2.features.backbone import Detector
from edm2.features.detectors import load_detector
from edm2.metrics.statistics import Statistics, distance, finite_features, metric_name
from edm2.params.vae import Vae
from edm2.runtime.distributed import is_main_process
from edm2.vae.evaluation import BATCH, evaluated_images


@dataclass(frozen=True)
class ReconstructionDistance:
    """A `SetDistance` by the features of a detector.

    Attributes:
        images: statistics of the images' features; on other ranks than the main process None.
    """

    detector: Detector
    images: Statistics | None

    def statistics(self, reconstructions: torch.Tensor) -> Statistics:
        """
        Raises:
            NotFiniteError: a feature is not finite.
        """
        return Statistics.of(finite_features(self.detector, reconstructions))

    def metrics(self, statistics: Statistics) -> dict[str, float]:
        """rfd_<detector>_<images>; with Inception rfid_<images>."""
        assert self.images is not None
        name = metric_name(self.detector.name, statistics.count, "rfd")
        return {name: distance(statistics, self.images)}


def reconstruction_distance(
    vae: Vae, held_out: ImageDataset, classifier_folder: Path, root: Path, device: torch.device
) -> ReconstructionDistance | None:
    """With `vae.detector`, for the held-out images that evaluations use; their features are computed here.

    None without a detector, or with no more images than feature dimensions, where the distance would be
    meaningless: then a note is printed. Every rank must call this.

    Args:
        classifier_folder: folder of the classifier of the dataset.
        root: folder that a relative `detector_path` starts from.

    Raises:
        UserError: weights, see `load_detector`; or damaged images.
    """
    if vae.detector is None:
        return None
    detector = load_detector(vae.detector, vae.detector_path, classifier_folder, root, device)
    indices = evaluated_images(len(held_out), vae.evaluate_images)
    if len(indices) <= detector.dims:
        if is_main_process():
            print(
                f"note: {len(indices)} held-out images are no more than the {detector.dims} feature "
                f"dimensions (vae.detector: {detector.name}): the Fréchet distance of their "
                "reconstructions is left out."
            )
        return None

    def compute(_: range, pixels: torch.Tensor, labels: torch.Tensor) -> Statistics:
        return Statistics.of(finite_features(detector, pixels.to(device)))

    batch = min(BATCH, max_batch_size(held_out.resolution))
    title = f"{detector.name} features"
    return ReconstructionDistance(
        detector, reduce_batches(held_out, indices, batch, compute, Statistics.merge, title)
    )
