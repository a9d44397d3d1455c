"""What losses and metrics ask of a network that sees images."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Backbone(Protocol):
    """Feature maps at several scales, for perceptual losses and discriminators."""

    name: str

    @property
    def channel_weights(self) -> Sequence[torch.Tensor]:
        """What each channel [C_k] of each slice counts in perceptual distances; never negative."""
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

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, R, R] → float32 [N, dims]."""
        ...
