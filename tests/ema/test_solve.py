"""Weights of snapshots: inner products, limits, and how the error falls."""

import numpy as np
import pytest
from scipy import integrate

from edm2.ema.profile import Power, response, sigma_rel_to_gamma
from edm2.ema.solve import gram_matrix, inner_product, solve_profiles, solve_weights


def two_a_time(n, end=1.0):
    """n times up to `end`, two lengths each, as training stores them."""
    times = np.repeat(np.arange(1, n + 1) * end / n, 2)
    return times, np.tile([0.05, 0.10], n)


def solved(times, lengths, time, sigma_rel):
    """Weights of one target, and their error."""
    stored = [Power(*pair) for pair in zip(times, lengths, strict=True)]
    weights, errors = solve_profiles(stored, [Power(time, sigma_rel)])
    return weights[:, 0], errors.item()


@pytest.mark.parametrize("lengths", [(0.05, 0.10), (0.10, 0.05), (0.2, 0.2), (0.03, 0.25)])
@pytest.mark.parametrize("times", [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0)])
def test_inner_product_is_the_integral(lengths, times):
    (a, b), (t_a, t_b) = lengths, times

    def product(tau):
        at = np.array([tau])
        return float(response(Power(t_a, a), at)[0] * response(Power(t_b, b), at)[0])

    expected, _ = integrate.quad(product, 0, min(times), epsabs=0, epsrel=1e-9, limit=200)
    g_a, g_b = sigma_rel_to_gamma(a), sigma_rel_to_gamma(b)
    found = inner_product(*map(np.float64, (t_a, g_a, t_b, g_b)))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_weights_minimize_the_squared_error_of_the_response():
    """Against plain least squares of the profiles on a fine grid of times."""
    times, lengths = two_a_time(4)
    grid = (np.arange(200_000) + 0.5) / 200_000
    profiles = np.stack(
        [response(Power(t, s), grid) for t, s in zip(times, lengths, strict=True)], 1
    )
    for target in (0.03, 0.08, 0.2):
        wanted = response(Power(1.0, target), grid)
        expected = np.linalg.lstsq(profiles, wanted, rcond=None)[0]
        found, reported = solved(times, lengths, 1.0, target)
        np.testing.assert_allclose(found, expected, atol=1e-3)
        residual = np.linalg.norm(profiles @ found - wanted) / np.linalg.norm(wanted)
        assert reported == pytest.approx(residual, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10])
def test_a_snapshot_at_its_own_length_and_time_returns_itself(sigma_rel):
    times, lengths = two_a_time(8, end=8e6)
    weights, error = solved(times, lengths, 5e6, sigma_rel)
    expected = (times == 5e6) & (lengths == sigma_rel)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert error < 1e-6


def test_later_snapshots_have_no_weight():
    times, lengths = two_a_time(8)
    weights = solve_weights(times, lengths, [0.5, 0.6, 1.0], [0.08, 0.08, 0.08])
    assert (weights[times > 0.5, 0] == 0).all()
    assert (weights[times > 0.6, 1] == 0).all()
    assert (weights[times <= 0.5, 0] != 0).any()
    assert (weights[times > 0.9, 2] != 0).all()


def test_the_future_changes_neither_weights_nor_error():
    """As if the snapshots after the target's time had not been taken."""
    times, lengths = two_a_time(8)
    past = times <= 0.5
    weights, error = solved(times, lengths, 0.5, 0.15)
    alone, same = solved(times[past], lengths[past], 0.5, 0.15)
    np.testing.assert_allclose(weights[past], alone, rtol=1e-9)
    assert error == pytest.approx(same, rel=1e-6)


def test_gram_matrix_holds_the_inner_product_of_every_pair():
    rows = [Power(t, s) for t, s in ((1.0, 0.05), (2.0, 0.2), (3.0, 0.1))]
    columns = [Power(2.5, 0.15), Power(1.0, 0.05)]
    found = gram_matrix(rows, columns)
    assert found.shape == (3, 2)
    for i, a in enumerate(rows):
        for k, b in enumerate(columns):

            def product(tau, a=a, b=b):
                return float(a.density(np.float64(tau)) * b.density(np.float64(tau)))

            end = min(a.nimg, b.nimg)
            expected, _ = integrate.quad(product, 0, end, points=[end * 0.8], limit=200)
            assert found[i, k] == pytest.approx(expected, rel=1e-9)


def test_each_target_has_weights_of_its_own():
    times, lengths = two_a_time(6)
    targets = [(1.0, 0.03), (0.5, 0.2), (1.0, 0.12)]
    together = solve_weights(times, lengths, *zip(*targets, strict=True))
    for column, (time, sigma_rel) in zip(together.T, targets, strict=True):
        alone = solve_weights(times, lengths, [time], [sigma_rel])[:, 0]
        np.testing.assert_allclose(column, alone, rtol=1e-12)


@pytest.mark.parametrize("sigma_rel", [0.015, 0.03, 0.07, 0.13, 0.2, 0.25])
def test_weights_are_those_of_an_average_in_the_trusted_range(sigma_rel):
    """256 snapshot times, about the paper's 2 147.5 Mimg every 8 Mimg: near perfect."""
    times, lengths = two_a_time(256, end=2147.5e6)
    weights, error = solved(times, lengths, times[-1], sigma_rel)
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    assert error < 1e-2


def test_the_unit_of_time_does_not_matter():
    small, large = two_a_time(8), two_a_time(8, end=2**31)
    found = [solve_weights(*store, [store[0][-1]], [0.13]) for store in (small, large)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.07, 0.15])
def test_the_squared_error_falls_like_the_fourth_power_of_the_snapshots(sigma_rel):
    """Each doubling of the snapshots gains a factor of 16, in ‖Σ x p − p_r‖² / ‖p_r‖²."""
    errors = []
    for n in (32, 64, 128):
        times, lengths = two_a_time(n)
        errors.append(solved(times, lengths, 1.0, sigma_rel)[1])
    gains = np.divide(errors[:-1], errors[1:]) ** 2
    np.testing.assert_allclose(gains, 16, rtol=0.2)


def test_two_lengths_a_time_beat_one():
    times, lengths = two_a_time(16)
    errors = {}
    for name, kept in (("two", lengths > 0), ("one", lengths == 0.05)):
        errors[name] = solved(times[kept], lengths[kept], 1.0, 0.13)[1]
    assert errors["two"] < errors["one"] / 5 < 0.2


def test_impossible_targets_are_refused():
    times, lengths = two_a_time(4, end=400.0)
    with pytest.raises(ValueError, match="after the first average, stored at 100"):
        solve_weights(times, lengths, [99.0], [0.1])
    with pytest.raises(ValueError, match=r"0\.3: expected within"):
        solve_weights(times, lengths, [400.0], [0.3])
