"""The backbone of the VAE's losses that params name."""

from pathlib import Path

import torch

from edm2.features.backbone import Backbone
from edm2.features.classifier import load_classifier
from edm2.features.efficientnet import load_efficientnet
from edm2.features.vgg import WIDTHS, Vgg16, load_vgg16
from edm2.params.registry import implementation
from edm2.params.seams import VAE_BACKBONES
from edm2.params.vae import Vae


def load_backbone(vae: Vae, classifier_folder: Path, root: Path, device: torch.device) -> Backbone:
    """The backbone that `vae` names, frozen.

    Args:
        classifier_folder: folder of the classifier of the dataset.
        root: folder that a relative `backbone_path` starts from.

    Raises:
        UserError: its weights are missing, damaged, or those of another network.
    """
    weights = None if vae.backbone_path is None else root / vae.backbone_path
    load = implementation(VAE_BACKBONES[vae.backbone].load)
    backbone: Backbone = load(weights, classifier_folder, device)
    return backbone


def classifier(weights: Path | None, classifier_folder: Path, device: torch.device) -> Backbone:
    return load_classifier(classifier_folder, device)


def efficientnet(weights: Path | None, classifier_folder: Path, device: torch.device) -> Backbone:
    return load_efficientnet(device)


def vgg16(weights: Path | None, classifier_folder: Path, device: torch.device) -> Backbone:
    return load_vgg16(weights, device)


def untrained_vgg16() -> Vgg16:
    """For plans: random weights, and all channels count alike."""
    return Vgg16(torch.ones(sum(WIDTHS)))
