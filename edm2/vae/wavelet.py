"""One level of the Haar wavelet transform."""

import torch
from torch import nn
from torch.nn import functional as F


class Wavelet(nn.Module):
    """[N, C, 2h, 2w] → [N, 4C, h, w]: four bands per channel, from each 2×2 block of pixels.

    Half of the block's sum, then half of its horizontal, vertical and diagonal differences. The
    basis is orthonormal, so that energy is preserved.
    """

    kernel: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        low, high = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
        bands = [torch.outer(a, b) / 2 for a in (low, high) for b in (low, high)]
        kernel = torch.stack(bands)[:, None].repeat(channels, 1, 1, 1)  # [4C, 1, 2, 2]
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.kernel.to(x.dtype), stride=2, groups=self.channels)
