"""The detector that params name."""

from pathlib import Path

import torch

from edm2.features.backbone import Detector
from edm2.features.classifier import load_classifier
from edm2.features.dinov2 import load_dinov2
from edm2.features.efficientnet import load_efficientnet
from edm2.features.inception import load_inception
from edm2.params.registry import implementation
from edm2.params.seams import DETECTORS


def load_detector(
    name: str, path: str | None, classifier_folder: Path, root: Path, device: torch.device
) -> Detector:
    """A detector of the registry, frozen.

    Args:
        path: file of its published weights; None: the cache, or the publisher.
        classifier_folder: folder of the classifier of the dataset.
        root: folder that a relative `path` starts from.

    Raises:
        UserError: its weights are missing, damaged, or those of another network.
    """
    weights = None if path is None else root / path
    load = implementation(DETECTORS[name].load)
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
