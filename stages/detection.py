"""What measures see images with, and what they compare with, for all stages that measure."""

from pathlib import Path
from typing import TYPE_CHECKING

from edm2.params import Params

if TYPE_CHECKING:
    import torch

    from edm2.features.backbone import Detector
    from edm2.metrics.reference import Reference

IMAGES, CLASSIFIER, REFERENCE = Path("data/images"), Path("models/features"), Path("data/reference")


def detector_of(params: Params, device: "torch.device") -> "Detector":
    """The detector that params choose."""
    from edm2.features.detectors import load_detector
    from edm2.params.checks import project_root

    return load_detector(params.evaluation, CLASSIFIER, project_root(), device)


def fingerprint_of_images() -> str:
    """Of the prepared images: their manifest has a checksum of each shard."""
    from edm2.runtime.files import sha256
    from edm2.runtime.manifest import NAME

    return sha256(IMAGES / NAME)


def reference_for(detector: "Detector") -> "Reference":
    """What the stage `reference` made of the training images, if it is for this detector."""
    from edm2.metrics.reference import load_reference

    return load_reference(REFERENCE, detector, fingerprint_of_images())


def outside(params: Params) -> str:
    """Names, sizes and times of the files that `evaluation` names, which dvc.yaml cannot."""
    from edm2.params.checks import project_root
    from edm2.runtime.files import describe

    named = (params.evaluation.detector_path, params.evaluation.reference)
    return describe(project_root() / path for path in named if path is not None)
