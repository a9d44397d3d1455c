"""Inception-v3 with the weights that define FID (Heusel et al. 2017), from torch-fidelity."""

from io import BytesIO
from pathlib import Path

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from edm2.features.backbone import features_in_batches
from edm2.features.weights import PublishedWeights, load_weights

INCEPTION_WEIGHTS = PublishedWeights(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
    license="Apache-2.0 (TensorFlow models); trained on ImageNet, which is for research",
    key="evaluation.detector_path (or vae.detector_path, --detector-path)",
)
MAX_BATCH_SIZE = 64  # of 299×299: below 1 GiB in float32


class Inception(nn.Module):
    """The `Detector` of FID: the 2048 pooled activations before the last layer. Frozen.

    Images of any size are resized to 299×299 as in TensorFlow 1, which is part of the metric's
    definition: bilinear, without aligned corners, without antialiasing.
    """

    name = "inception"
    dims = 2048

    def __init__(self, state: dict[str, torch.Tensor], fingerprint: str) -> None:
        """
        Args:
            state: tensors by their names in torch-fidelity's file.
            fingerprint: SHA-256 of that file.
        """
        super().__init__()
        self.fingerprint = fingerprint
        # the extractor unpickles its file without restrictions, so it gets one with tensors only
        file = BytesIO()
        torch.save(state, file)
        file.seek(0)
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], file)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return features_in_batches(images, MAX_BATCH_SIZE, lambda batch: self.network(batch)[0])

    @torch.no_grad()
    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Features [N, 2048] → p(y|x) [N, 1008], for the Inception score.

        As in the original implementation (Salimans et al. 2016), all outputs are included, even those
        that are not classes, and the last layer's bias is not.
        """
        return (features @ self.network.fc.weight.T).softmax(1)


def load_inception(path: Path | None, device: torch.device) -> Inception:
    """Inception-v3 as published.

    Args:
        path: the weights file; None: the cache, or a download into it.

    Raises:
        UserError: see `load_weights`.
    """
    return Inception(*load_weights(INCEPTION_WEIGHTS, path)).to(device)
