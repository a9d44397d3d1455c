"""Structural similarity of images (SSIM, Wang et al. 2004, eq. 13)."""

import torch

WINDOW = 7  # pixels along each side
PIXELS = WINDOW**2
C1 = (0.01 * 255) ** 2 * PIXELS**2  # eq. 13's constants, for sums in place of means
C2 = (0.03 * 255) ** 2 * PIXELS * (PIXELS - 1)
CHUNK = 2**18  # pixels of a channel processed at once: what fits in a processor's cache


def structural_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM of each pair of images, float64 [N].

    The mean over channels and over all 7×7 windows inside the image, with equal weights and sample
    covariances: `skimage.metrics.structural_similarity(a, b, channel_axis=0)`. Sums over windows are
    exact, in int32, so that only the quotient is rounded.

    Args:
        a, b: uint8 [N, C, H, W], at least 7 pixels along each side.
    """
    planes = max(1, CHUNK // a[0, 0].numel())
    pairs = zip(a.flatten(0, 1).split(planes), b.flatten(0, 1).split(planes), strict=True)
    means = torch.cat([_mean_over_windows(x.int(), y.int()) for x, y in pairs])
    return means.reshape(a.shape[:2]).mean(1)


def _mean_over_windows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """float64 [P] of int32 planes [P, H, W]. Works in place where it can: memory limits its speed."""
    sum_x, sum_y, sum_xy = _window_sums(x), _window_sums(y), _window_sums(x * y)
    sum_squares = _window_sums(x * x + y * y)
    product = sum_x * sum_y
    squares = sum_x.square_().add_(sum_y.square_())
    covariance = sum_xy.mul_(PIXELS).sub_(product)  # times n (n − 1)
    variances = sum_squares.mul_(PIXELS).sub_(squares)
    numerator = (2.0 * product.double() + C1).mul_(2.0 * covariance.double() + C2)
    denominator = (squares.double() + C1).mul_(variances.double() + C2)
    return numerator.div_(denominator).mean((1, 2))


def _window_sums(x: torch.Tensor) -> torch.Tensor:
    """[P, H, W] → the sums over all windows inside, [P, H − 6, W − 6]."""
    for axis in (1, 2):
        size = x.shape[axis] - WINDOW + 1
        pairs = x.narrow(axis, 0, size + 5) + x.narrow(axis, 1, size + 5)
        sums = pairs.narrow(axis, 0, size) + pairs.narrow(axis, 2, size)
        x = sums.add_(pairs.narrow(axis, 4, size)).add_(x.narrow(axis, 6, size))
    return x
