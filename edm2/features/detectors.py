"""The detector that params name."""

from pathlib import Path

import torch

from edm2.features.backbone import Detector
from edm2.features.classifier import load_classifier
from edm2.features.dinov2 import load_dinov2
from edm2.features.efficientnet import load_efficientnet
from edm2.features.inception import load_inception
from edm2.params.evaluation import Evaluation
from edm2.params.registry import implementation
from edm2.params.seams import DETECTORS


def load_detector(
    evaluation: Evaluation, classifier_folder: Path, root: Path, device: torch.device
) -> Detector:
    """The detector that `evaluation` names, frozen.

    Args:
        classifier_folder: folder of the classifier of the dataset.
        root: folder that a relative `detector_path` starts from.

    Raises:
        UserError: its weights are missing, damaged, or those of another network.
    """
    weights = None if evaluation.detector_path is None else root / evaluation.detector_path
    load = implementation(DETECTORS[evaluation.detector].load)
    detector: Detector = load(weights, classifier_folder, device)
    return detector


def classifier(weights: Path | None, classifier_folder: Path, device: torch.device) -> Detector:
    return load_classifier(classifier_folder, device)


def efficientnet(weights: Path | None, classifier_folder: Path, device: torch.device) -> Detector:
    return load_efficientnet(device)


def inception(weights: Path | None, classifier_folder: Path, device: torch.device) -> Detector:
    return load_inception(weights, device)


def dinov2(weights: Path | None, classifier_folder: Path, device: torch.device) -> Detector:
    return load_dinov2(weights, device)
