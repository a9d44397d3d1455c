"""The low-pass mask: where an image is flat, its pixels must be right; where it is busy, they need not."""

import torch
from torch.nn import functional as F

LEAST = 0.8  # of the mask; what is below does not count at all
BLUR_SIDE, BLUR_STD = 13, 2.0  # pixels


def low_pass_mask(images: torch.Tensor) -> torch.Tensor:
    """float [N, C, R, R] → [N, 1, R, R] in {0} ∪ [0.8, 1]: 1 where flat, 0 at edges and in texture.

    Gray image → difference of each pixel from its neighbors within a rounded 5×5 window → absolute
    value → Gaussian blur → scaled to [0, 1] per image → 1 − that → 0 where below 0.8. An image
    without any difference is flat everywhere. Borders repeat.
    """
    gray = images.float().mean(dim=1, keepdim=True)
    busy = _filtered(gray, _differences().to(gray)).abs()
    row = _gaussian().to(gray)
    blurred = _filtered(_filtered(busy, row[:, None]), row[None, :])
    low, high = blurred.amin((1, 2, 3), keepdim=True), blurred.amax((1, 2, 3), keepdim=True)
    scale = torch.where(high - low > 1e-6, high - low, torch.ones_like(high))  # flat: no difference
    mask = 1 - (blurred - low) / scale
    return torch.where(mask >= LEAST, mask, torch.zeros_like(mask))


def _differences() -> torch.Tensor:
    """Ones in a 5×5 window without its corners, and their negative sum in the center."""
    kernel = torch.ones(5, 5)
    kernel[::4, ::4] = 0
    kernel[2, 2] -= kernel.sum()
    return kernel


def _gaussian() -> torch.Tensor:
    x = torch.arange(BLUR_SIDE) - BLUR_SIDE // 2
    weights = torch.exp(-x.square() / (2 * BLUR_STD**2))
    return weights / weights.sum()


def _filtered(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    height, width = kernel.shape
    padded = F.pad(x, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return F.conv2d(padded, kernel[None, None])
