"""The detector that params choose, and the reference that generated images are compared with."""

from pathlib import Path
from typing import TYPE_CHECKING

from edm2.params import Params
from edm2.params.checks import project_root
from edm2.pipeline.paths import FEATURES, IMAGES, REFERENCE
from edm2.runtime.files import describe, sha256
from edm2.runtime.manifest import MANIFEST, load_manifest

if TYPE_CHECKING:
    import torch

    from edm2.features.backbone import Detector
    from edm2.metrics.reference import Reference


def detector_for(params: Params, device: "torch.device") -> "Detector":
    """The detector that params choose."""
    from edm2.features.detectors import load_detector

    name, path = params.evaluation.detector, params.evaluation.detector_path
    return load_detector(name, path, FEATURES, project_root(), device)


def is_detector_at_chance(params: Params) -> bool:
    """Whether the detector is the dataset's classifier, and no better than chance on held-out images."""
    with_classifier = params.evaluation.detector == "classifier"
    return with_classifier and bool(load_manifest(FEATURES)["at_chance"])


def images_fingerprint() -> str:
    """Checksum of the prepared images' manifest, which has a checksum of each shard."""
    return sha256(IMAGES / MANIFEST)


def reference_for(detector: "Detector") -> "Reference":
    """The training images' statistics, written by the stage `reference` for this detector.

    Raises:
        UserError: they were computed with another detector or from other images.
    """
    from edm2.metrics.reference import load_reference

    return load_reference(REFERENCE, detector, images_fingerprint())


def external_inputs(params: Params) -> str:
    """Names, sizes and times of the files that `evaluation` names, which dvc.yaml cannot."""
    paths: tuple[str | None, ...] = (params.evaluation.detector_path, params.evaluation.reference)
    return describe(project_root() / Path(path) for path in paths if path is not None)
