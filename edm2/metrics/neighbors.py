"""Improved precision and recall (Kynkäänniemi et al. 2019): what lies among whose nearest neighbors."""

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.metrics.pairs import CPU, chunks

ROUNDING = 1e-12  # of squared distances, relative to the squared norms they are differences of


def precision(
    generated: NDArray[np.floating],
    reference: NDArray[np.floating],
    neighbors: int = 3,
    device: torch.device = CPU,
) -> float:
    """The share of generated images that lie on the manifold of the reference (eq. 2).

    A manifold is the union of balls around all features of a set, each as wide as the distance to
    the k-th nearest other feature of the set (eq. 1). The value depends on the size of both sets.

    Args:
        generated, reference: features [M, D] and [N, D].
        neighbors: k, fewer than either set has features.
        device: where float64 products of M × N pairs are made.

    Raises:
        ValueError: shapes do not match, k is too large, or a value is not finite.
    """
    return _share_inside(generated, reference, neighbors, device)


def recall(
    generated: NDArray[np.floating],
    reference: NDArray[np.floating],
    neighbors: int = 3,
    device: torch.device = CPU,
) -> float:
    """The share of the reference that lies on the manifold of the generated; see `precision`."""
    return _share_inside(reference, generated, neighbors, device)


def _share_inside(
    points: NDArray[np.floating],
    support: NDArray[np.floating],
    neighbors: int,
    device: torch.device,
) -> float:
    """Of `points` [M, D], inside at least one ball around `support` [N, D]."""
    if points.ndim != 2 or support.ndim != 2 or points.shape[1] != support.shape[1]:
        raise ValueError(f"expected features [M, D], [N, D], got {points.shape}, {support.shape}")
    if not 1 <= neighbors < min(len(points), len(support)):
        raise ValueError(
            f"neighbors = {neighbors}: expected 1 or more, and fewer than the "
            f"{min(len(points), len(support))} features of the smaller set"
        )
    if not (np.isfinite(points).all() and np.isfinite(support).all()):
        raise ValueError("expected finite features, got infs or NaNs")
    center = support.mean(axis=0, dtype=np.float64)  # small norms, small rounding
    x, y = (torch.from_numpy(z - center).to(device) for z in (points, support))
    radii = _squared_radii(y, neighbors)
    inside = sum(
        int((_squared_distances(x[chunk], y) <= radii).any(1).sum()) for chunk in chunks(x, len(y))
    )
    return inside / len(points)


def _squared_radii(x: torch.Tensor, neighbors: int) -> torch.Tensor:
    """[N, D] → of each, the squared distance to the k-th nearest of the others: [N]."""
    found = []
    for chunk in chunks(x, len(x)):
        distances = _squared_distances(x[chunk], x)
        rows = torch.arange(chunk.start, chunk.stop, device=x.device)
        distances[rows - chunk.start, rows] = torch.inf  # to itself
        found.append(distances.topk(neighbors, largest=False).values[:, -1])
    return torch.cat(found)


def _squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[M, D], [N, D] → [M, N]; what is no more than rounding is 0, so that equal features are equal."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = norms - 2 * x @ y.T
    return distances.masked_fill_(distances < ROUNDING * norms, 0)
