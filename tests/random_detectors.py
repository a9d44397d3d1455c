"""Detectors with random weights, in files of the published formats."""

import hashlib
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from edm2.features import dinov2, inception
from edm2.features.dinov2 import Dinov2


@cache
def random_inception() -> dict[str, torch.Tensor]:
    """Tensors of an Inception-v3 whose features differ between images; tests must not change them."""
    torch.manual_seed(0)
    empty = BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], empty)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    nn.init.normal_(network.fc.weight, std=0.05)
    nn.init.normal_(network.fc.bias)
    return network.state_dict()


@cache
def random_dinov2(depth: int) -> Dinov2:
    """A network of few blocks; tests must not change it."""
    torch.manual_seed(0)
    network = Dinov2(depth=depth)
    for name, tensor in network.named_parameters():
        scale = "gamma" in name or name.endswith(("norm1.weight", "norm2.weight", "norm.weight"))
        nn.init.normal_(tensor, 1.0 if scale else 0.0, 0.05)
    return network


def write_inception(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is accepted as the published one."""
    torch.save(random_inception(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = replace(inception.INCEPTION_WEIGHTS, sha256=digest[:8])
    monkeypatch.setattr(inception, "INCEPTION_WEIGHTS", expected)
    return path


def write_dinov2(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of one transformer block, accepted instead of the published 24."""
    monkeypatch.setattr(dinov2, "DEPTH", 1)
    state = random_dinov2(depth=1).state_dict()
    torch.save({**state, "mask_token": torch.zeros(1, 1024)}, path)
    return path
