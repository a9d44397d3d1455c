"""A small classifier trained on the dataset: the offline substitute for VGG16 and Inception."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edm2.data.images import to_float
from edm2.features.backbone import require_uint8
from edm2.runtime.files import replacing
from edm2.runtime.finite import require_finite
from edm2.runtime.manifest import REBUILD_HINT, read_verified, write_manifest


class Classifier(nn.Module):
    """Convolutional slices, each at half the resolution of the one before; a feature vector; logits.

    Both a `Backbone` (slices) and a `Detector` (features).
    """

    name = "classifier"
    fingerprint = ""  # set when loaded from disk

    def __init__(
        self, channels: int, slices: int, dims: int, num_classes: int, resolution: int
    ) -> None:
        super().__init__()
        self.dims = dims
        self.init_args = {
            "channels": channels,
            "slices": slices,
            "dims": dims,
            "num_classes": num_classes,
            "resolution": resolution,
        }
        widths = [3] + [channels * 2**k for k in range(slices)]
        self.stages = nn.ModuleList(
            nn.Sequential(_conv_norm_act(a, b), _conv_norm_act(b, b)) for a, b in pairwise(widths)
        )
        side = min(4, resolution // 2 ** (slices - 1))
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.embed = nn.Linear(widths[-1] * side * side, dims)
        self.head = nn.Linear(dims, num_classes)

    @property
    def channel_weights(self) -> list[torch.Tensor]:
        """All ones."""
        widths = [self.init_args["channels"] * 2**k for k in range(self.init_args["slices"])]
        return [self.embed.weight.new_ones(width) for width in widths]

    def slices(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], images
        for k, stage in enumerate(self.stages):
            x = stage(x if k == 0 else nn.functional.avg_pool2d(x, 2))
            maps.append(x)
        return maps

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        """float [N, 3, R, R] in [-1, 1] → [N, dims]."""
        return nn.functional.silu(self.embed(self.pool(self.slices(images)[-1]).flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float [N, 3, R, R] in [-1, 1] → logits [N, num_classes]."""
        logits: torch.Tensor = self.head(self.embedding(images))
        return logits

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        require_uint8(images)
        return self.embedding(to_float(images)).float()


def _conv_norm_act(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.GroupNorm(max(1, out_channels // 8), out_channels),
        nn.SiLU(),
    )


def save_classifier(classifier: Classifier, folder: Path, **metadata: Any) -> None:
    """Write network.safetensors and a manifest with `metadata` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "network.safetensors") as partial:
        save_file(classifier.state_dict(), partial)
    write_manifest(folder, network=classifier.init_args, **metadata)


def load_classifier(folder: Path, device: torch.device) -> Classifier:
    """The frozen classifier in a folder that `save_classifier` wrote.

    Raises:
        UserError: see `read_verified`; or a weight is not finite.
    """
    manifest = read_verified(folder)
    classifier = Classifier(**manifest["network"])
    classifier.fingerprint = manifest["files"]["network.safetensors"]["sha256"]
    tensors = load_file(folder / "network.safetensors")
    for name, tensor in tensors.items():
        require_finite(tensor, f"{folder}: tensor {name} of the classifier", REBUILD_HINT)
    classifier.load_state_dict(tensors)
    return classifier.to(device).eval().requires_grad_(False)
