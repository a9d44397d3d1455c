"""Traditional averages as profiles: moments, inner products, and averages made from them."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from edm2.ema import SnapshotStore, TraditionalEMA, reconstruct, write_snapshot
from edm2.ema.profile import Power, Traditional, gamma_to_sigma_rel, traditional_sigma_rel
from edm2.ema.solve import gram_matrix, solve_profiles

PROFILES = [
    Traditional(1000, 1e9, 0.05),  # capped throughout
    Traditional(1000, 1e9, 0.3),
    Traditional(1000, 50, 0.05),  # the cap ends at the very end
    Traditional(1000, 40, 0.05),  # a little before
    Traditional(1000, 20, 0.1),  # in the middle
    Traditional(1000, 5, 0.5),  # long before
]


def quad(function, end, kinks=()):
    """The integral by scipy, over intervals that shrink towards the end."""
    edges = {0.0, end, *(k for k in kinks if k < end), *(end * (1 - 0.5**k) for k in range(1, 12))}
    edges = sorted(edges)
    return sum(
        integrate.quad(function, low, high, epsabs=0, epsrel=1e-11, limit=200)[0]
        for low, high in zip(edges, edges[1:], strict=False)  # noqa: RUF007
    )


def density(profile):
    """The profile by hand: shares halve within the half-life min(λ, r·t); differentiated."""

    def at(tau):
        if isinstance(profile, Power):
            return float(profile.density(np.float64(tau)))
        cap = min(profile.nimg, profile.halflife_nimg / profile.rampup)
        late = 0.5 ** ((profile.nimg - max(tau, cap)) / profile.halflife_nimg)
        rate = math.log(2) / min(profile.halflife_nimg, profile.rampup * tau) if tau else 0.0
        return rate * late * (min(tau, cap) / cap) ** (math.log(2) / profile.rampup)

    return at


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_density_follows_from_the_update(profile):
    times = np.linspace(1, 1000, 1777)
    expected = [density(profile)(tau) for tau in times]
    np.testing.assert_allclose(profile.density(times), expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_density_integrates_to_one_and_has_its_length(profile):
    def moment(power):
        def weighted(tau):
            return float(profile.density(np.float64(tau))) * (tau / 1000) ** power

        return quad(weighted, 1000.0, [profile.kink])

    assert moment(0) == pytest.approx(1, rel=1e-9)
    length = math.sqrt(moment(2) - moment(1) ** 2)
    assert length == pytest.approx(
        traditional_sigma_rel(1000, profile.halflife_nimg, profile.rampup), rel=1e-6
    )


@pytest.mark.parametrize("a", PROFILES, ids=str)
@pytest.mark.parametrize(
    "b",
    [
        Power(1000, 0.05),
        Power(700, 0.2),
        Power(2000, 0.015),
        Traditional(600, 20, 0.1),
        Traditional(4000, 100, 0.2),
    ],
    ids=str,
)
def test_inner_products_equal_the_integrals(a, b):
    one, two = density(a), density(b)
    expected = quad(lambda tau: one(tau) * two(tau), float(min(a.nimg, b.nimg)), [a.kink, b.kink])
    product = gram_matrix([a], [b]).item()
    assert product == pytest.approx(expected, rel=1e-7)
    assert gram_matrix([b], [a]).item() == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("rampup", [0.02, 0.05, 0.3])
@pytest.mark.parametrize(("one", "two"), [(1000, 1000), (1000, 600), (30, 1000)])
def test_inner_products_of_capped_profiles_are_those_of_power_functions(rampup, one, two):
    """Half-life r·t: a power function of exponent ln 2 / r − 1; its integrals have closed forms."""
    gamma = math.log(2) / rampup - 1
    length = gamma_to_sigma_rel(gamma)
    product = gram_matrix([Traditional(one, 1e9, rampup)], [Traditional(two, 1e9, rampup)]).item()
    earlier, later = sorted((one, two))
    expected = (gamma + 1) ** 2 * (earlier / later) ** gamma / ((2 * gamma + 1) * later)
    assert product == pytest.approx(expected, rel=1e-9)
    closed = gram_matrix([Power(one, length)], [Power(two, length)]).item()
    assert product == pytest.approx(closed, rel=1e-6)


def test_a_very_short_half_life_is_integrated_accurately():
    """A millionth of the training: ∫ p² = ln 2 / 2λ, all of it near the end."""
    profile = Traditional(1e9, 1e3, 0.05)
    square = gram_matrix([profile], [profile]).item()
    assert square == pytest.approx(math.log(2) / 2e3, rel=1e-9)


def test_weights_and_error_equal_least_squares_on_a_grid():
    stored = [Traditional(nimg, 60, 0.1) for nimg in (300, 500, 700, 900, 1000)]
    stored += [Power(800, 0.1), Power(1000, 0.1)]
    target = Power(1000, 0.13)
    grid = (np.arange(200_000) + 0.5) / 200
    columns = np.stack(
        [np.where(grid <= p.nimg, p.density(np.minimum(grid, p.nimg)), 0) for p in stored], axis=1
    )
    profile = target.density(grid)
    expected = np.linalg.lstsq(columns, profile, rcond=None)[0]
    weights, errors = solve_profiles(stored, [target])
    np.testing.assert_allclose(weights[:, 0], expected, atol=2e-3)
    residual = np.linalg.norm(columns @ expected - profile) / np.linalg.norm(profile)
    assert errors[0] == pytest.approx(residual, rel=1e-3)


def test_snapshots_after_the_time_of_a_target_have_no_weight():
    stored = [Traditional(nimg, 60, 0.1) for nimg in (300, 500, 700, 900)]
    weights, errors = solve_profiles(stored, [Power(600, 0.1), Power(900, 0.1)])
    assert (weights[2:, 0] == 0).all()
    assert (weights[:2, 0] != 0).all()
    assert (weights[:, 1] != 0).all()
    assert errors[1] < errors[0]


@pytest.mark.parametrize("steps", [400, 300])
def test_power_averages_are_reconstructed_from_traditional_snapshots(tmp_path, steps):
    """Within the bound of the reported error, and within 3% of the norm."""
    batch, rng = 8, np.random.default_rng(3)
    tensors = {"a": torch.zeros(20), "b": torch.zeros(3, 5)}
    ema, positions = TraditionalEMA(tensors, 30 * batch, 0.1), []
    for step in range(1, 401):
        for tensor in tensors.values():
            tensor += torch.from_numpy(rng.normal(size=tensor.shape) / 20).float()
        ema.update(step * batch, batch)
        positions.append(np.concatenate([t.double().numpy().ravel() for t in tensors.values()]))
        if step % 10 == 0:
            for snapshot, averages in ema.snapshots(step * batch).items():
                write_snapshot(tmp_path, snapshot, averages, [], torch.float32)
    walk = np.stack(positions)[:steps]
    for average, tensors in reconstruct(SnapshotStore(tmp_path), [0.08, 0.13, 0.2], steps * batch):
        gammas = np.linspace(0, 30, 300_001)
        lengths = np.sqrt((gammas + 1) / (gammas + 3)) / (gammas + 2)
        gamma = gammas[np.argmin(abs(lengths - average.sigma_rel))]
        direct = np.diff((np.arange(steps + 1) / steps) ** (gamma + 1)) @ walk
        distance = np.linalg.norm(np.concatenate([tensors["a"], tensors["b"].ravel()]) - direct)
        norm = (gamma + 1) / np.sqrt((2 * gamma + 1) * steps)
        # 0.02: the discrete update follows the profile only up to half a step
        assert distance < average.error * norm * np.linalg.norm(walk - walk[-1]) + 0.02
        assert distance < 0.03 * np.linalg.norm(direct)
        assert average.weight_sum == pytest.approx(1, abs=0.02)
        assert average.average == "power"
