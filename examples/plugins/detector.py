"""A detector: the image itself at 4×4 pixels. It captures colors and positions, but no shapes."""

from pathlib import Path

import torch
from torch.nn import functional as F

from edm2.data.images import to_float
from edm2.features.backbone import require_uint8
from edm2.params.seams import DETECTORS, DetectorKind

SIDE = 4
DIMS = 3 * SIDE**2


class Thumbnail:
    name, dims, fingerprint = "thumbnail", DIMS, "4x4"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        require_uint8(images)
        return F.adaptive_avg_pool2d(to_float(images), SIDE).flatten(1)


def load(weights: Path | None, classifier_folder: Path, device: torch.device) -> Thumbnail:
    return Thumbnail()


DETECTORS.register("thumbnail", DetectorKind(load, dims=DIMS))
