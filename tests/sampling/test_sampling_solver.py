"""Heun's sampler on Gaussian data, where the ODE has a closed form.

For data N(0, s²) the ideal denoiser is D = x·s²/(s²+σ²), so dx/dσ = x·σ/(s²+σ²) and
x(σ) = x(σ_max)·√((s²+σ²)/(s²+σ_max²)).
"""

import numpy as np
import pytest
import torch

from edm2.sampling import heun
from edm2.sampling.solver import noise_levels

S = 0.5


class Ideal:
    """The denoiser of Gaussian data; remembers the noise levels that it was asked at."""

    def __init__(self):
        self.sigmas = []

    def __call__(self, x, sigma):
        assert sigma.shape == (len(x),)
        assert sigma.dtype == x.dtype
        assert sigma.unique().numel() == 1
        self.sigmas.append(float(sigma[0]))
        return x * (S**2 / (S**2 + sigma**2))[:, None, None, None]


@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.1, 3.0, 1.0)])
@pytest.mark.parametrize("steps", [2, 5, 32])
def test_noise_levels(steps, low, high, rho):
    """EDM eq. 5: from σ_max down to σ_min, equally spaced in σ^{1/ρ}, then 0."""
    levels = noise_levels(steps, low, high, rho).numpy()
    assert levels.dtype == np.float64
    assert len(levels) == steps + 1
    assert levels[0] == pytest.approx(high)
    assert levels[-2] == pytest.approx(low)
    assert levels[-1] == 0
    assert (np.diff(levels) < 0).all()
    distances = np.diff(levels[:-1] ** (1 / rho))
    np.testing.assert_allclose(distances, (low ** (1 / rho) - high ** (1 / rho)) / (steps - 1))


@pytest.mark.parametrize("steps", [2, 3, 18, 32])
def test_evaluations_are_two_a_step_but_one_for_the_last(steps):
    """Each inner level is asked twice: at the end of a step and at the start of the next."""
    denoise = Ideal()
    heun(denoise, torch.ones(2, 1, 1, 1), steps=steps)
    levels = noise_levels(steps, 0.002, 80.0, 7.0)[:-1].tolist()
    assert len(denoise.sigmas) == 2 * steps - 1
    assert denoise.sigmas == pytest.approx([levels[0], *np.repeat(levels[1:], 2)])


def test_order_of_convergence_is_two():
    """Twice the steps, a quarter of the error; the last step, Euler's to 0, is D itself."""
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    low, high = 0.01, 10.0
    before_last = high * np.sqrt((S**2 + low**2) / (S**2 + high**2))
    exact = before_last * S**2 / (S**2 + low**2)
    errors = [abs(float(heun(Ideal(), noise, n, low, high, 7.0)) - exact) for n in (33, 65, 129)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 2, atol=0.15)


def test_samples_have_the_distribution_of_the_data():
    """With the paper's settings: standard deviation ½ from noise of 1."""
    torch.manual_seed(0)
    samples = heun(Ideal(), torch.randn(64, 4, 8, 8))
    assert samples.shape == (64, 4, 8, 8)
    assert samples.dtype == torch.float32
    assert float(samples.std()) == pytest.approx(S, rel=0.02)
    assert float(samples.mean()) == pytest.approx(0, abs=0.02)


def test_a_denoiser_that_knows_the_image_returns_it():
    """D = y for every x: the last Euler step lands on y."""
    y = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    found = heun(lambda x, sigma: y.expand_as(x), torch.randn(3, 1, 4, 4), steps=4)
    torch.testing.assert_close(found, y.expand(3, -1, -1, -1), atol=1e-4, rtol=0)


def test_no_gradients_and_the_noise_stays():
    weight = torch.ones([], requires_grad=True)
    noise = torch.randn(2, 1, 4, 4)
    before = noise.clone()
    found = heun(lambda x, sigma: 0.5 * weight * x, noise, steps=3)
    assert not found.requires_grad
    assert torch.equal(noise, before)
