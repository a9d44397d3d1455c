"""Fréchet distance of Gaussians (Heusel et al. 2017, eq. 6)."""

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


def frechet_distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2}), in float64.

    With any factor F Fᵀ = Σ_a, the symmetric matrix Fᵀ Σ_b F has the eigenvalues of Σ_a Σ_b. The
    trace is the sum of their square roots, with small negative eigenvalues clamped to 0. So no matrix
    square root is needed.

    Args:
        mean_a, mean_b: [D].
        cov_a, cov_b: symmetric positive semi-definite [D, D].

    Raises:
        ValueError: shapes do not match, or a value is not finite.
    """
    mean_a, cov_a, mean_b, cov_b = (
        np.asarray(x, np.float64) for x in (mean_a, cov_a, mean_b, cov_b)
    )
    dims = mean_a.size
    shapes = (mean_a.shape, cov_a.shape, mean_b.shape, cov_b.shape)
    if shapes != ((dims,), (dims, dims), (dims,), (dims, dims)):
        raise ValueError(f"expected means [D] and covariances [D, D], got {shapes}")
    if not all(np.isfinite(x).all() for x in (mean_a, cov_a, mean_b, cov_b)):
        raise ValueError("expected finite means and covariances, got infs or NaNs")
    factor = _factor(cov_a)
    product = scipy.linalg.eigvalsh(factor.T @ cov_b @ factor)
    trace = np.sqrt(np.clip(product, 0, None)).sum()
    difference = mean_a - mean_b
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * trace)


def _factor(cov: Array) -> Array:
    """F [D, D] with F Fᵀ = `cov`: Cholesky factor, or from eigenvalues if `cov` is singular."""
    try:
        return scipy.linalg.cholesky(cov, lower=True)
    except scipy.linalg.LinAlgError:
        values, vectors = scipy.linalg.eigh(cov)
        root: Array = vectors * np.sqrt(np.clip(values, 0, None))
        return root
