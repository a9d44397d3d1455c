"""Loads the detector that params name."""

from pathlib import Path

import torch

from edm2.features.backbone import Detector
from edm2.features.classifier import load_classifier
from edm2.features.dinov2 import load_dinov2
from edm2.features.inception import load_inception
from edm2.params.evaluation import Evaluation


def load_detector(
    evaluation: Evaluation, classifier: Path, root: Path, device: torch.device
) -> Detector:
    """The detector that `evaluation` names, frozen.

    Args:
        classifier: folder of the dataset's own classifier.
        root: folder that a relative `detector_path` starts from.

    Raises:
        UserError: its weights cannot be found or downloaded, are corrupted, or are of another network.
    """
    path = None if evaluation.detector_path is None else root / evaluation.detector_path
    match evaluation.detector:
        case "inception":
            return load_inception(path, device)
        case "dinov2":
            return load_dinov2(path, device)
        case "classifier":
            return load_classifier(classifier, device)
