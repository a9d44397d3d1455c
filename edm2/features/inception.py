"""Inception-v3 with the weights that FID is defined by (Heusel et al. 2017), through torch-fidelity."""

from io import BytesIO
from pathlib import Path

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from edm2.features.backbone import seen_in_parts
from edm2.features.weights import Weights, read_weights

TENSORFLOW = Weights(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
    license="Apache-2.0 (TensorFlow models); trained on ImageNet, which is for research",
    key="evaluation.detector_path",
)
AT_ONCE = 64  # images of 299×299: below 1 GiB in float32


class Inception(nn.Module):
    """The `Detector` of FID: the 2048 averages before the last layer. Frozen.

    Images of any size are resized to 299×299 as TensorFlow 1 did it, which is part of the metric's
    definition: bilinear, corners not aligned, without antialiasing.
    """

    name = "inception"
    dims = 2048

    def __init__(self, state: dict[str, torch.Tensor], fingerprint: str) -> None:
        """
        Args:
            state: tensors by their names in torch-fidelity's file.
            fingerprint: of that file.
        """
        super().__init__()
        self.fingerprint = fingerprint
        safe = BytesIO()  # the extractor runs whatever a pickle says; this one has tensors alone
        torch.save(state, safe)
        safe.seek(0)
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], safe)
        self.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return seen_in_parts(images, AT_ONCE, lambda part: self.network(part)[0])

    @torch.no_grad()
    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Features [N, 2048] → p(y|x) [N, 1008], as the Inception score reads them.

        All outputs take part, also those that are no class, and the last layer's bias does not: so
        does the original implementation (Salimans et al. 2016).
        """
        return (features @ self.network.fc.weight.T).softmax(1)


def load_inception(path: Path | None, device: torch.device) -> Inception:
    """Inception-v3 as published.

    Args:
        path: a copy of the file; None for the cache, or a download into it.

    Raises:
        UserError: see `read_weights`.
    """
    return Inception(*read_weights(TENSORFLOW, path)).to(device)
