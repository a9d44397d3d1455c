"""Kernel distance, KID with Inception's features (Bińkowski et al. 2018)."""

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.metrics.pairs import CPU, chunks


def kernel_distance(
    features_a: NDArray[np.floating],
    features_b: NDArray[np.floating],
    device: torch.device = CPU,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy under k(x, y) = (x·y/D + 1)³, and its standard error.

    mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{ij} k(a_i, b_j): unbiased, so that it may
    be negative (Gretton et al. 2012, eq. 3). All pairs take part, so there are no random subsets and
    no seed. The error is that of the delete-one jackknife over the images of both sets, which follows
    from the sums of the kernel over rows; it is a little too large rather than too small.

    Args:
        features_a, features_b: [M, D] and [N, D], at least 3 of each.
        device: where float64 products of M × N pairs are made.

    Raises:
        ValueError: shapes do not match, fewer than 3 of either, or a value is not finite.
    """
    a, b = np.asarray(features_a), np.asarray(features_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 3:
        raise ValueError(
            f"expected features [M, D] and [N, D], 3 or more, got {a.shape}, {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite features, got infs or NaNs")
    x, y = (torch.from_numpy(z).to(device, torch.float64) for z in (a, b))
    within_a, within_b = _sums_of_others(x), _sums_of_others(y)
    across_a, across_b = _sums(x, y)
    m, n = len(a), len(b)
    value = (
        within_a.sum() / (m * (m - 1))
        + within_b.sum() / (n * (n - 1))
        - 2 * across_a.sum() / (m * n)
    )
    variance = _jackknife(within_a, across_a, n) + _jackknife(within_b, across_b, m)
    return float(value), float(np.sqrt(variance))


def _sums(x: torch.Tensor, y: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ_j k(x_i, y_j) for each i, and Σ_i k(x_i, y_j) for each j."""
    rows, columns = [], torch.zeros(len(y), dtype=x.dtype, device=x.device)
    for chunk in chunks(x, len(y)):
        kernel = (x[chunk] @ y.T / x.shape[1] + 1) ** 3  # [rows of the chunk, N]
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    return torch.cat(rows).cpu().numpy(), columns.cpu().numpy()


def _sums_of_others(x: torch.Tensor) -> NDArray[np.float64]:
    """Σ_{j≠i} k(x_i, x_j) for each i."""
    itself = (x.square().sum(1) / x.shape[1] + 1) ** 3
    found: NDArray[np.float64] = _sums(x, x)[0] - itself.cpu().numpy()
    return found


def _jackknife(within: NDArray[np.float64], across: NDArray[np.float64], others: int) -> float:
    """Variance from leaving out one image of a set at a time.

    Args:
        within: of each image, the sum of its kernel with the others of its set.
        across: of each image, the sum of its kernel with the `others` images of the other set.
    """
    m = len(within)
    without = 2 * across / ((m - 1) * others) - 2 * within / ((m - 1) * (m - 2))  # less a constant
    return float((m - 1) / m * np.square(without - without.mean()).sum())
