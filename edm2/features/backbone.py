"""The interfaces between feature networks and the losses and metrics that use them."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from edm2.runtime.device import full_float32


class Backbone(Protocol):
    """Feature maps at several scales, for perceptual losses and discriminators."""

    name: str

    @property
    def channel_weights(self) -> Sequence[torch.Tensor]:
        """Weights [C_k] of each slice's channels in perceptual distances; at least 0."""
        ...

    def slices(self, images: torch.Tensor) -> list[torch.Tensor]:
        """float [N, 3, R, R] in [-1, 1] → maps [N, C_k, H_k, W_k], fine to coarse.

        Gradients flow to the images; the backbone's own parameters are frozen.
        """
        ...


class Detector(Protocol):
    """Feature vectors, for distances between sets of images."""

    name: str  # as in metric names: fd_<name>_<samples>
    dims: int
    fingerprint: str  # of the weights; features of different weights are not comparable

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, H, W] in [0, 255] → float32 [N, dims]; each row depends on its image alone.

        Raises:
            TypeError: images are not uint8.
        """
        ...


class ClassDetector(Detector, Protocol):
    """A detector that also classifies, for the Inception score."""

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """float32 [N, dims] → p(y|x) [N, classes]; each row sums to 1."""
        ...


def require_uint8(images: torch.Tensor) -> None:
    """Raise a TypeError unless images are uint8."""
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, got {images.dtype}")


@torch.no_grad()
def features_in_batches(
    images: torch.Tensor, batch_size: int, extract: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Features [N, D] of uint8 images, computed in batches so that memory does not grow with N.

    Args:
        batch_size: largest number of images in a batch.
        extract: uint8 images → their features.

    They are computed in full float32 on GPUs: TensorFloat-32 would change them in the fourth digit.

    Raises:
        TypeError: images are not uint8.
    """
    require_uint8(images)
    with full_float32():
        return torch.cat([extract(batch) for batch in images.split(batch_size)])
