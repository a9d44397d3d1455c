"""The low-pass mask: 1 where an image is flat and its pixels must be right, 0 where it has detail."""

import torch
from torch.nn import functional as F

MIN_MASK = 0.8  # smaller values are set to 0
BLUR_SIDE, BLUR_STD = 13, 2.0  # pixels


def low_pass_mask(images: torch.Tensor) -> torch.Tensor:
    """float [N, C, R, R] → [N, 1, R, R] in {0} ∪ [0.8, 1]: 1 where flat, 0 at edges and in texture.

    Gray image → difference of each pixel from its neighbors within a rounded 5×5 window → absolute
    value → Gaussian blur → scaled to [0, 1] per image → 1 − that → 0 where below 0.8. The mask of an
    image without any difference is 1 everywhere. Border pixels are repeated outside the image.
    """
    gray = images.float().mean(dim=1, keepdim=True)
    detail = _filter(gray, _difference_kernel().to(gray, non_blocking=True)).abs()
    row = _gaussian_kernel().to(gray, non_blocking=True)
    blurred = _filter(_filter(detail, row[:, None]), row[None, :])
    low, high = blurred.amin((1, 2, 3), keepdim=True), blurred.amax((1, 2, 3), keepdim=True)
    scale = torch.where(high - low > 1e-6, high - low, torch.ones_like(high))  # flat: no difference
    mask = 1 - (blurred - low) / scale
    return torch.where(mask >= MIN_MASK, mask, torch.zeros_like(mask))


def _difference_kernel() -> torch.Tensor:
    """Ones in a 5×5 window without its corners, and their negative sum in the center."""
    kernel = torch.ones(5, 5)
    kernel[::4, ::4] = 0
    kernel[2, 2] -= kernel.sum()
    return kernel


def _gaussian_kernel() -> torch.Tensor:
    """[BLUR_SIDE], sum 1."""
    x = torch.arange(BLUR_SIDE) - BLUR_SIDE // 2
    weights = torch.exp(-x.square() / (2 * BLUR_STD**2))
    return weights / weights.sum()


def _filter(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """[N, 1, H, W] filtered with a kernel [h, w]; keeps its size."""
    height, width = kernel.shape
    padded = F.pad(x, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return F.conv2d(padded, kernel[None, None])
