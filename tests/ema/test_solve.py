"""Weights of snapshots: inner products, limits, and the convergence of the error."""

import numpy as np
import pytest
from scipy import integrate

from edm2.ema.profile import Power, response, sigma_rel_to_gamma
from edm2.ema.solve import gram_matrix, inner_product, normalized, solve_profiles, solve_weights


def pairs_of_snapshots(n, end=1.0):
    """Times and lengths of n snapshots of two averages up to `end`, as a training stores them."""
    times = np.repeat(np.arange(1, n + 1) * end / n, 2)
    return times, np.tile([0.05, 0.10], n)


def solve_one(times, lengths, time, sigma_rel):
    """Weights of one target, and the error."""
    stored = [Power(*pair) for pair in zip(times, lengths, strict=True)]
    weights, errors = solve_profiles(stored, [Power(time, sigma_rel)])
    return weights[:, 0], errors.item()


@pytest.mark.parametrize("lengths", [(0.05, 0.10), (0.10, 0.05), (0.2, 0.2), (0.03, 0.25)])
@pytest.mark.parametrize("times", [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0)])
def test_inner_product_equals_the_integral(lengths, times):
    (a, b), (t_a, t_b) = lengths, times

    def product(tau):
        at = np.array([tau])
        return float(response(Power(t_a, a), at)[0] * response(Power(t_b, b), at)[0])

    expected, _ = integrate.quad(product, 0, min(times), epsabs=0, epsrel=1e-9, limit=200)
    g_a, g_b = sigma_rel_to_gamma(a), sigma_rel_to_gamma(b)
    product_of_both = inner_product(*map(np.float64, (t_a, g_a, t_b, g_b)))
    assert float(product_of_both) == pytest.approx(expected, rel=1e-6)


def test_weights_minimize_the_squared_error_of_the_response():
    """Against least squares of the profiles on a fine grid of times."""
    times, lengths = pairs_of_snapshots(4)
    grid = (np.arange(200_000) + 0.5) / 200_000
    profiles = np.stack(
        [response(Power(t, s), grid) for t, s in zip(times, lengths, strict=True)], 1
    )
    for target in (0.03, 0.08, 0.2):
        profile = response(Power(1.0, target), grid)
        expected = np.linalg.lstsq(profiles, profile, rcond=None)[0]
        weights, error = solve_one(times, lengths, 1.0, target)
        np.testing.assert_allclose(weights, expected, atol=1e-3)
        residual = np.linalg.norm(profiles @ weights - profile) / np.linalg.norm(profile)
        assert error == pytest.approx(residual, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10])
def test_a_target_that_is_a_snapshot_has_the_weight_of_that_snapshot_only(sigma_rel):
    times, lengths = pairs_of_snapshots(8, end=8e6)
    weights, error = solve_one(times, lengths, 5e6, sigma_rel)
    expected = (times == 5e6) & (lengths == sigma_rel)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("target", [0.02, 0.08, 0.2, 0.25])
def test_normalized_weights_have_the_sum_1_and_their_own_error(target):
    """Against the response of the divided weights on a fine grid; few snapshots, so that it matters."""
    times, lengths = pairs_of_snapshots(2)
    plain = solve_weights(times, lengths, [1.0], [target], normalize=False)
    default = solve_weights(times, lengths, [1.0], [target])
    assert abs(plain.sum() - 1) > 1e-3
    np.testing.assert_allclose(default, plain / plain.sum(), rtol=1e-12)
    grid = (np.arange(200_000) + 0.5) / 200_000
    stored = [Power(t, s) for t, s in zip(times, lengths, strict=True)]
    profile = response(Power(1.0, target), grid)
    weights, errors = normalized(*solve_profiles(stored, [Power(1.0, target)]))
    sums = np.stack([response(p, grid) for p in stored], 1) @ weights[:, 0]
    expected = np.linalg.norm(sums - profile) / np.linalg.norm(profile)
    assert errors.item() == pytest.approx(expected, rel=1e-3)


def test_weights_without_a_positive_sum_are_not_normalized():
    with pytest.raises(ValueError, match="-0.25"):
        normalized(np.array([[1.0, 0.5], [0.0, -0.75]]), np.array([0.1, 0.2]))


def test_an_average_at_time_0_is_refused():
    with pytest.raises(ValueError, match="time 0"):
        solve_weights([0.0, 1.0], [0.1, 0.1], [1.0], [0.1])


def test_later_snapshots_have_no_weight():
    times, lengths = pairs_of_snapshots(8)
    weights = solve_weights(times, lengths, [0.5, 0.6, 1.0], [0.08, 0.08, 0.08])
    assert (weights[times > 0.5, 0] == 0).all()
    assert (weights[times > 0.6, 1] == 0).all()
    assert (weights[times <= 0.5, 0] != 0).any()
    assert (weights[times > 0.9, 2] != 0).all()


def test_later_snapshots_change_neither_weights_nor_error():
    times, lengths = pairs_of_snapshots(8)
    past = times <= 0.5
    weights, error = solve_one(times, lengths, 0.5, 0.15)
    expected, expected_error = solve_one(times[past], lengths[past], 0.5, 0.15)
    np.testing.assert_allclose(weights[past], expected, rtol=1e-9)
    assert error == pytest.approx(expected_error, rel=1e-6)


def test_gram_matrix_holds_the_inner_product_of_every_pair():
    rows = [Power(t, s) for t, s in ((1.0, 0.05), (2.0, 0.2), (3.0, 0.1))]
    columns = [Power(2.5, 0.15), Power(1.0, 0.05)]
    matrix = gram_matrix(rows, columns)
    assert matrix.shape == (3, 2)
    for i, a in enumerate(rows):
        for k, b in enumerate(columns):

            def product(tau, a=a, b=b):
                return float(a.density(np.float64(tau)) * b.density(np.float64(tau)))

            end = min(a.nimg, b.nimg)
            expected, _ = integrate.quad(product, 0, end, points=[end * 0.8], limit=200)
            assert matrix[i, k] == pytest.approx(expected, rel=1e-9)


def test_weights_of_a_target_do_not_depend_on_the_other_targets():
    times, lengths = pairs_of_snapshots(6)
    targets = [(1.0, 0.03), (0.5, 0.2), (1.0, 0.12)]
    together = solve_weights(times, lengths, *zip(*targets, strict=True))
    for column, (time, sigma_rel) in zip(together.T, targets, strict=True):
        alone = solve_weights(times, lengths, [time], [sigma_rel])[:, 0]
        np.testing.assert_allclose(column, alone, rtol=1e-12)


@pytest.mark.parametrize("sigma_rel", [0.015, 0.03, 0.07, 0.13, 0.2, 0.25])
def test_errors_are_small_in_the_range_of_the_paper(sigma_rel):
    """256 snapshot times: about 2147.5 million images every 8 million, as in the paper."""
    times, lengths = pairs_of_snapshots(256, end=2147.5e6)
    weights, error = solve_one(times, lengths, times[-1], sigma_rel)
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    assert error < 1e-2


def test_the_unit_of_time_does_not_matter():
    small, large = pairs_of_snapshots(8), pairs_of_snapshots(8, end=2**31)
    weights = [solve_weights(*store, [store[0][-1]], [0.13]) for store in (small, large)]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.07, 0.15])
def test_the_squared_error_falls_like_the_fourth_power_of_the_snapshots(sigma_rel):
    """Each doubling of the snapshots divides ‖Σ x p − p_r‖² / ‖p_r‖² by 16."""
    errors = []
    for n in (32, 64, 128):
        times, lengths = pairs_of_snapshots(n)
        errors.append(solve_one(times, lengths, 1.0, sigma_rel)[1])
    gains = np.divide(errors[:-1], errors[1:]) ** 2
    np.testing.assert_allclose(gains, 16, rtol=0.2)


def test_snapshots_of_two_lengths_give_smaller_errors_than_of_one():
    times, lengths = pairs_of_snapshots(16)
    errors = {}
    for name, kept in (("two", lengths > 0), ("one", lengths == 0.05)):
        errors[name] = solve_one(times[kept], lengths[kept], 1.0, 0.13)[1]
    assert errors["two"] < errors["one"] / 5 < 0.2


def test_impossible_targets_are_refused():
    times, lengths = pairs_of_snapshots(4, end=400.0)
    with pytest.raises(ValueError, match=r" 99 images.* 100"):
        solve_weights(times, lengths, [99.0], [0.1])
    with pytest.raises(ValueError, match=r"0\.3"):
        solve_weights(times, lengths, [400.0], [0.3])
