"""The Fréchet distance, compared with closed forms and independent implementations."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from edm2.metrics import frechet_distance


def gaussian(seed, dims, rank=None):
    """A mean and a covariance of the given rank."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dims, rank or 2 * dims))
    return rng.normal(size=dims), factor @ factor.T / factor.shape[1]


@pytest.mark.parametrize("dims", [1, 5, 60])
def test_distance_to_itself_is_zero(dims):
    mean, cov = gaussian(0, dims)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)


def test_diagonal_gaussians():
    """Σ (μ_a − μ_b)² + (σ_a − σ_b)²."""
    rng = np.random.default_rng(1)
    mean_a, mean_b = rng.normal(size=(2, 12))
    std_a, std_b = rng.uniform(0, 3, size=(2, 12))
    expected = ((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2).sum()
    distance = frechet_distance(mean_a, np.diag(std_a**2), mean_b, np.diag(std_b**2))
    assert distance == pytest.approx(expected, rel=1e-10)


def test_one_dimension_by_hand():
    """N(1, 4) and N(4, 25): 9 + (2 − 5)² = 18."""
    distance = frechet_distance(*map(np.array, ([1.0], [[4.0]], [4.0], [[25.0]])))
    assert distance == pytest.approx(18)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_matrix_square_root(seed):
    """tr (Σ_a Σ_b)^{1/2} from scipy.linalg.sqrtm, for covariances that do not commute."""
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(seed, 20), gaussian(seed + 100, 20)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("count", "dims"), [(300, 16), (2000, 64), (1000, 192)])
def test_agrees_with_torch_fidelity(count, dims):
    """On the same features, with a decaying spectrum like that of image features."""
    rng = np.random.default_rng(dims)
    scales = np.exp(-np.arange(dims) / (dims / 6))
    a, b = (
        rng.normal(0.3 * k, 1 + k / 3, (count, dims)) * scales @ rng.normal(size=(dims, dims))
        for k in range(2)
    )
    moments = [x for z in (a, b) for x in (z.mean(axis=0), np.cov(z, rowvar=False))]
    distance = frechet_distance(*moments)
    statistics = (fid_features_to_statistics(torch.from_numpy(z)) for z in (a, b))
    other = fid_statistics_to_metric(*statistics, verbose=False)
    assert distance == pytest.approx(other["frechet_inception_distance"], rel=1e-6)


def test_distance_is_symmetric_and_invariant_under_rotation():
    a, b = gaussian(2, 15), gaussian(3, 15, rank=20)
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(15, 15)))[0]
    rotated = [(rotation @ mean, rotation @ cov @ rotation.T) for mean, cov in (a, b)]
    expected = frechet_distance(*a, *b)
    assert expected > 1
    assert frechet_distance(*b, *a) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*rotated[0], *rotated[1]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rank", [3, 19, 40])
def test_singular_covariances(rank):
    """For Σ_a = A Aᵀ and Σ_b = B Bᵀ, tr √(Σ_a Σ_b) is the sum of the singular values of Aᵀ B."""
    rng = np.random.default_rng(rank)
    a, b = rng.normal(size=(20, rank)), rng.normal(size=(20, 30))
    zero = np.zeros(20)
    trace = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    expected = np.trace(a @ a.T) + np.trace(b @ b.T) - 2 * trace
    for pair in ((a, b), (b, a)):
        covs = [x @ x.T for x in pair]
        distance = frechet_distance(zero, covs[0], zero, covs[1])
        assert distance == pytest.approx(expected, rel=1e-6)


def test_rank_one_covariances():
    """Two rank-one Gaussians on axes u and v: tr(Σ_a + Σ_b) − 2·|u·v|·σ_a·σ_b, by hand."""
    dims, u, v = 40, np.zeros(40), np.zeros(40)
    u[0], v[:2] = 1, [0.6, 0.8]
    zero = np.zeros(dims)
    distance = frechet_distance(zero, 4 * np.outer(u, u), zero, 9 * np.outer(v, v))
    assert isinstance(distance, float)
    assert distance == pytest.approx(4 + 9 - 2 * 0.6 * 2 * 3, abs=1e-5)
    mean, cov = gaussian(5, 50, rank=7)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(zero, np.zeros((dims, dims)), zero, np.eye(dims)) == pytest.approx(dims)


@pytest.mark.parametrize("position", range(4))
def test_wrong_shapes_are_refused(position):
    arguments = [*gaussian(0, 5), *gaussian(1, 5)]
    arguments[position] = arguments[position][:-1]
    with pytest.raises(ValueError, match=r"\[D\].*\[D, D\]"):
        frechet_distance(*arguments)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_refused(position, value):
    arguments = [*gaussian(0, 5), *gaussian(1, 5)]
    arguments[position][0] = value
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(*arguments)
