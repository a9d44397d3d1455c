"""Kernel distance; called KID with Inception features (Bińkowski et al. 2018)."""

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

    mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{ij} k(a_i, b_j). This estimate is
    unbiased, so it can be negative (Gretton et al. 2012, eq. 3). It uses all pairs: no random subsets,
    no seed. The standard error is from the delete-one jackknife over the images of both sets, which
    only needs the row sums of the kernel; it tends to be a little too large.

    Args:
        features_a, features_b: [M, D] and [N, D], at least 3 of each.
        device: where the float64 products of M × N pairs are computed.

    Raises:
        ValueError: shapes do not match, a set has fewer than 3 features, or a value is not finite.
    """
    a, b = np.asarray(features_a), np.asarray(features_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 3:
        raise ValueError(
            f"expected features [M, D] and [N, D] with M, N ≥ 3, got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite features, got infs or NaNs")
    x, y = (torch.from_numpy(z).to(device, torch.float64) for z in (a, b))
    within_a, within_b = _sums_without_self(x), _sums_without_self(y)
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


def _sums_without_self(x: torch.Tensor) -> NDArray[np.float64]:
    """Σ_{j≠i} k(x_i, x_j) for each i."""
    diagonal = (x.square().sum(1) / x.shape[1] + 1) ** 3
    sums: NDArray[np.float64] = _sums(x, x)[0] - diagonal.cpu().numpy()
    return sums


def _jackknife(within: NDArray[np.float64], across: NDArray[np.float64], n: int) -> float:
    """Variance from leaving out one image of a set of M at a time.

    Args:
        within: [M], for each image the sum of its kernel with the other images of its set.
        across: [M], for each image the sum of its kernel with the `n` images of the other set.
    """
    m = len(within)
    # the distance without image i, up to a constant
    left_out = 2 * across / ((m - 1) * n) - 2 * within / ((m - 1) * (m - 2))
    return float((m - 1) / m * np.square(left_out - left_out.mean()).sum())
