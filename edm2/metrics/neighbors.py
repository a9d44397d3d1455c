"""Improved precision and recall, by nearest neighbors (Kynkäänniemi et al. 2019)."""

import numpy as np
import torch
from numpy.typing import NDArray

from edm2.metrics.pairs import CPU, chunks

ROUNDING = 1e-12  # rounding error of squared distances, relative to the squared norms


def precision(
    generated: NDArray[np.floating],
    reference: NDArray[np.floating],
    neighbors: int = 3,
    device: torch.device = CPU,
) -> float:
    """The fraction of generated images that lie on the manifold of the reference (eq. 2).

    The manifold of a set is the union of balls around its features. A ball's radius is the distance to
    the k-th nearest other feature of the set (eq. 1). The value depends on the sizes of both sets.

    Args:
        generated, reference: features [M, D] and [N, D].
        neighbors: k, at least 1 and less than M and N.
        device: where the float64 products of M × N pairs are computed.

    Raises:
        ValueError: shapes do not match, k is too large, or a value is not finite.
    """
    return _fraction_inside(generated, reference, neighbors, device)


def recall(
    generated: NDArray[np.floating],
    reference: NDArray[np.floating],
    neighbors: int = 3,
    device: torch.device = CPU,
) -> float:
    """The fraction of the reference that lies on the manifold of the generated; see `precision`."""
    return _fraction_inside(reference, generated, neighbors, device)


def _fraction_inside(
    points: NDArray[np.floating],
    support: NDArray[np.floating],
    neighbors: int,
    device: torch.device,
) -> float:
    """The fraction of `points` [M, D] inside at least one ball around `support` [N, D]."""
    if points.ndim != 2 or support.ndim != 2 or points.shape[1] != support.shape[1]:
        raise ValueError(
            f"expected features [M, D] and [N, D], got {points.shape} and {support.shape}"
        )
    if not 1 <= neighbors < min(len(points), len(support)):
        raise ValueError(
            f"neighbors = {neighbors}: expected at least 1, and less than the "
            f"{min(len(points), len(support))} features of the smaller set"
        )
    if not (np.isfinite(points).all() and np.isfinite(support).all()):
        raise ValueError("expected finite features, got infs or NaNs")
    center = support.mean(axis=0, dtype=np.float64)  # smaller norms, smaller rounding errors
    x, y = (torch.from_numpy(z - center).to(device) for z in (points, support))
    radii = _squared_radii(y, neighbors)
    inside = sum(
        int((_squared_distances(x[chunk], y) <= radii).any(1).sum()) for chunk in chunks(x, len(y))
    )
    return inside / len(points)


def _squared_radii(x: torch.Tensor, neighbors: int) -> torch.Tensor:
    """[N, D] → [N]: the squared distance from each row to its k-th nearest other row."""
    radii = []
    for chunk in chunks(x, len(x)):
        distances = _squared_distances(x[chunk], x)
        rows = torch.arange(chunk.start, chunk.stop, device=x.device)
        distances[rows - chunk.start, rows] = torch.inf  # to itself
        radii.append(distances.topk(neighbors, largest=False).values[:, -1])
    return torch.cat(radii)


def _squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[M, D], [N, D] → [M, N]; rounding errors are set to 0, so that equal features have distance 0."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = norms - 2 * x @ y.T
    return distances.masked_fill_(distances < ROUNDING * norms, 0)
