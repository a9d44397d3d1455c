"""Lengths, exponents and profiles."""

import math

import numpy as np
import pytest
from scipy import integrate

from edm2.ema.profile import Power, beta, gamma_to_sigma_rel, response, sigma_rel_to_gamma

PUBLISHED = [(0.05, 16.97), (0.10, 6.94), (0.15, 3.56), (0.20, 1.83), (0.25, 0.72)]


@pytest.mark.parametrize(("sigma_rel", "gamma"), PUBLISHED)
def test_published_pairs(sigma_rel, gamma):
    """EDM2 Appendix C, to its two decimals."""
    assert sigma_rel_to_gamma(sigma_rel) == pytest.approx(gamma, abs=0.005)
    assert gamma_to_sigma_rel(gamma) == pytest.approx(sigma_rel, abs=5e-4)


def test_inverse_over_the_range():
    for sigma_rel in (1e-4, 0.001, 0.01, 0.034, 0.1, 0.13, 0.2, 0.28, 0.2885):
        gamma = sigma_rel_to_gamma(sigma_rel)
        assert gamma > 0
        # standard deviation of the Beta(γ + 1, 1) distribution, which τ/t has
        by_moments = math.sqrt((gamma + 1) / (gamma + 3) - ((gamma + 1) / (gamma + 2)) ** 2)
        assert by_moments == pytest.approx(sigma_rel, rel=1e-6)
        assert gamma_to_sigma_rel(gamma) == pytest.approx(sigma_rel, rel=1e-9)


def test_longer_averages_have_smaller_exponents():
    gammas = [sigma_rel_to_gamma(s) for s in np.linspace(0.01, 0.28, 28)]
    assert gammas == sorted(gammas, reverse=True)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 12**-0.5, 0.3, 5.0, math.nan, math.inf])
def test_impossible_lengths_are_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"\(0, 0\.2887\)"):
        sigma_rel_to_gamma(sigma_rel)


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_impossible_exponents_are_refused(gamma):
    with pytest.raises(ValueError, match=str(gamma)):
        gamma_to_sigma_rel(gamma)


def test_beta_by_hand():
    """(1 − Δt/t)^{γ+1}, in images: 0 in the first step, (3/4)³ in the fourth for γ = 2."""
    assert beta(2.0, 64, 64) == 0
    assert beta(2.0, 256, 64) == pytest.approx(27 / 64)
    assert beta(0.0, 128, 64) == pytest.approx(1 / 2)  # a plain mean


@pytest.mark.parametrize("sigma_rel", [0.02, 0.1, 0.25])
@pytest.mark.parametrize("nimg", [1.0, 3e6])
def test_response_is_a_density_with_the_given_length(sigma_rel, nimg):
    profile = Power(nimg, sigma_rel)

    def moment(power):
        def density(tau):
            return tau**power * float(response(profile, np.array([tau * nimg]))[0]) * nimg

        return integrate.quad(density, 0, 1, limit=200)[0]

    assert moment(0) == pytest.approx(1, rel=1e-6)
    assert math.sqrt(moment(2) - moment(1) ** 2) == pytest.approx(sigma_rel, rel=1e-5)


def test_response_is_zero_outside_of_training():
    values = response(Power(100.0, 0.1), np.array([-5.0, 0.0, 50.0, 100.0, 100.1]))
    assert values[[0, 1, 4]].tolist() == [0, 0, 0]
    assert 0 < values[2] < values[3]
