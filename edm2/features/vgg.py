"""VGG16 (Simonyan and Zisserman 2014) with torchvision's ImageNet weights, as LPIPS uses it."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from edm2.features import imagenet
from edm2.features.weights import PublishedWeights, load_weights
from edm2.runtime.files import require_sha256, sha256
from edm2.runtime.torch_records import read_torch

VGG16_WEIGHTS = PublishedWeights(
    file="vgg16-397923af.pth",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af",
    license="BSD-3-Clause (torchvision); trained on ImageNet, which is for research",
    key="vae.backbone_path",
)
# weights/v0.1/vgg.pth, as in the list of files of the package's only wheel of version 0.1.4
LPIPS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
CONVS = (2, 2, 3, 3, 3)  # convolutions per slice
WIDTHS = (64, 128, 256, 512, 512)  # channels per slice


class Vgg16(nn.Module):
    """The `Backbone` whose slices are relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

    Frozen. Images are float [N, 3, R, R] in [-1, 1], R at least 16.
    """

    name = "vgg16"

    def __init__(self, channel_weights: torch.Tensor) -> None:
        """
        Args:
            channel_weights: float [1472], the weights of LPIPS for the channels of all slices in order.
        """
        super().__init__()
        self.features = nn.Sequential(*_layers())  # numbered as in torchvision
        self.all_weights = nn.Buffer(channel_weights)
        self.mean = nn.Buffer(torch.tensor(imagenet.MEAN).reshape(3, 1, 1) * 2 - 1)
        self.std = nn.Buffer(torch.tensor(imagenet.STD).reshape(3, 1, 1) * 2)
        self.eval().requires_grad_(False)

    @property
    def channel_weights(self) -> tuple[torch.Tensor, ...]:
        return self.all_weights.split(WIDTHS)

    def slices(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], (images - self.mean) / self.std
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]


def lpips_weights() -> torch.Tensor:
    """The channel weights for VGG16 in the package lpips, version 0.1 (Zhang et al. 2018): float [1472].

    Raises:
        UserError: the file is another one than was published.
    """
    package = find_spec("lpips")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "weights/v0.1/vgg.pth"
    require_sha256(
        path, sha256(path), LPIPS_SHA256, "as published on PyPI", "Install lpips==0.1.4 again."
    )
    state = read_torch(path)
    return torch.cat([state[f"lin{k}.model.1.weight"].flatten() for k in range(len(WIDTHS))])


def load_vgg16(path: Path | None, device: torch.device) -> Vgg16:
    """VGG16 as published, with the channel weights of LPIPS.

    Args:
        path: the weights file; None: the cache, or a download into it.

    Raises:
        UserError: see `load_weights`.
    """
    state, _ = load_weights(VGG16_WEIGHTS, path)
    vgg = Vgg16(lpips_weights())
    features = {
        name.removeprefix("features."): tensor
        for name, tensor in state.items()
        if name.startswith("features.")
    }
    vgg.features.load_state_dict(features)
    return vgg.to(device)


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    in_channels = 3
    for convs, width in zip(CONVS, WIDTHS, strict=True):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(convs):
            layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            in_channels = width
    return layers
