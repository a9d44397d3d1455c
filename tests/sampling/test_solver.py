"""The solvers on Gaussian data, where everything has a closed form.

For data N(μ, s²) the ideal denoiser is D = (s²·x + σ²·μ)/(s² + σ²), so dx/dσ = (x − μ)·σ/(s² + σ²)
and x(σ) − μ = (x(σ_max) − μ)·√((s² + σ²)/(s² + σ_max²)).
"""

import re

import numpy as np
import pytest
import torch

from edm2.sampling import Churn, euler, heun
from edm2.sampling.solver import noise_levels

S, MU = 0.5, 0.25
SOLVERS = [heun, euler]
MAX_GAMMA = np.sqrt(2) - 1  # EDM alg. 2


def ideal(x, sigma):
    return (S**2 * x + sigma**2 * MU) / (S**2 + sigma**2)


class Ideal:
    """The ideal denoiser of Gaussian data; records the noise levels it is called with."""

    def __init__(self):
        self.sigmas = []

    def __call__(self, x, sigma):
        assert sigma.shape == (len(x),)
        assert x.dtype == sigma.dtype == torch.float32
        assert sigma.unique().numel() == 1
        self.sigmas.append(float(sigma[0]))
        return ideal(x, sigma[:, None, None, None])


def churn_noise(shape):
    """noise(step), and the list of steps that it has been called for."""
    steps = []

    def noise(step):
        steps.append(step)
        return torch.from_numpy(np.random.default_rng([1, step]).normal(size=shape))

    return noise, steps


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


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", steps) for steps in (-1, 0, 1)),
        *(("sigma_min", sigma) for sigma in (0.0, -0.002, np.nan, np.inf, 80.0, 81.0, 1e-50)),
        *(("sigma_max", sigma) for sigma in (0.0, -80.0, np.nan, np.inf, 0.002, 0.001, 1e50)),
        *(("rho", rho) for rho in (0.0, -7.0, np.nan, np.inf)),
    ],
)
def test_values_without_a_schedule_are_named(solver, name, value):
    """1e-50 and 1e50 are 0 and ∞ in float32, which denoisers get."""
    with pytest.raises(ValueError, match=rf"{name} = {re.escape(str(value))}\b"):
        solver(Ideal(), torch.ones(1, 1, 1, 1), **{name: value})


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(1e-6, 1e6), (79.0, 80.0)])
def test_samples_are_finite_for_extreme_noise_levels(solver, sigma_min, sigma_max):
    samples = solver(Ideal(), torch.ones(1, 1, 1, 1), 4, sigma_min, sigma_max)
    assert torch.isfinite(samples).all()


@pytest.mark.parametrize("steps", [2, 3, 18, 32])
def test_heun_evaluates_twice_per_step_and_once_in_the_last(steps):
    """At each level but the first: at the end of a step and at the start of the next."""
    denoise = Ideal()
    heun(denoise, torch.ones(2, 1, 1, 1), steps=steps)
    levels = noise_levels(steps, 0.002, 80.0, 7.0)[:-1].tolist()
    assert len(denoise.sigmas) == 2 * steps - 1
    assert denoise.sigmas == pytest.approx([levels[0], *np.repeat(levels[1:], 2)])


@pytest.mark.parametrize("steps", [2, 3, 18, 32])
def test_euler_evaluates_once_per_step(steps):
    denoise = Ideal()
    euler(denoise, torch.ones(2, 1, 1, 1), steps=steps)
    assert denoise.sigmas == pytest.approx(noise_levels(steps, 0.002, 80.0, 7.0)[:-1].tolist())


@pytest.mark.parametrize(
    ("solver", "order", "steps"), [(heun, 2, (17, 33, 65, 129)), (euler, 1, (65, 129, 257, 513))]
)
@pytest.mark.parametrize("start", [1.0, -0.75])
def test_order_of_convergence(solver, order, steps, start):
    """Twice the steps: a quarter or half of the error. The last step, to 0, returns D itself."""
    low, high = 0.01, 10.0
    noise = torch.full((1, 1, 1, 1), start, dtype=torch.float64)
    before_last = MU + (start * high - MU) * np.sqrt((S**2 + low**2) / (S**2 + high**2))
    exact = ideal(before_last, low)
    samples = [float(solver(Ideal(), noise, n, low, high, 7.0, dtype=torch.float64)) for n in steps]
    errors = np.abs(np.array(samples) - exact)
    intervals = np.array(steps) - 1
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(intervals))
    np.testing.assert_allclose(slopes, order, atol=0.15)
    assert errors[-1] < 2e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_state_has_the_given_dtype_and_the_denoiser_gets_float32(solver):
    """With D = 0 the solution is x = noise·σ: a float64 state is exact to the last bit of float32."""
    noise = torch.linspace(-2, 2, 64).reshape(1, 1, 8, 8)
    levels = noise_levels(200, 0.002, 80.0, 7.0).numpy()
    largest = {}
    for dtype in (torch.float32, torch.float64):
        errors = []

        def denoise(x, sigma, errors=errors):
            assert x.dtype == sigma.dtype == torch.float32
            level = levels[np.abs(levels - float(sigma[0])).argmin()]
            errors.append(float((x.double() / (noise.double() * level) - 1).abs().max()))
            return torch.zeros_like(x)

        assert solver(denoise, noise, 200, dtype=dtype).dtype == torch.float32
        largest[dtype] = max(errors)
    assert largest[torch.float64] <= 2**-24  # half a unit in the last place
    assert largest[torch.float32] > 2 * 2**-24


def test_samples_have_the_distribution_of_the_data():
    """With the paper's settings, from standard normal noise."""
    samples = heun(Ideal(), torch.randn(64, 4, 8, 8))
    assert samples.shape == (64, 4, 8, 8)
    assert samples.dtype == torch.float32
    assert float(samples.std()) == pytest.approx(S, rel=0.02)
    assert float(samples.mean()) == pytest.approx(MU, abs=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_denoiser_gives_its_constant(solver):
    """D = y for every x: the last Euler step gives y."""
    y = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    samples = solver(lambda x, sigma: y.expand_as(x), torch.randn(3, 1, 4, 4), steps=4)
    torch.testing.assert_close(samples, y.expand(3, -1, -1, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_have_no_gradients_and_the_noise_is_not_modified(solver):
    weight = torch.ones([], requires_grad=True)
    noise = torch.randn(2, 1, 4, 4)
    before = noise.clone()
    churn = Churn(10.0, lambda step: before)
    samples = solver(lambda x, sigma: 0.5 * weight * x, noise, steps=3, churn=churn)
    assert not samples.requires_grad
    assert torch.equal(noise, before)


def algorithm(x, steps, s_churn, interval, s_noise, noise, corrected):
    """EDM algorithm 2 in float64, line by line, and the levels of its evaluations."""
    t = noise_levels(steps, 0.002, 80.0, 7.0).numpy()
    x, levels = x * t[0], []
    for i in range(steps):
        gamma = min(s_churn / steps, MAX_GAMMA) if interval[0] <= t[i] <= interval[1] else 0
        epsilon = s_noise * noise(i).numpy()
        t_hat = t[i] + gamma * t[i]
        x_hat = x + np.sqrt(t_hat**2 - t[i] ** 2) * epsilon
        d = (x_hat - ideal(x_hat, t_hat)) / t_hat
        levels.append(t_hat)
        x = x_hat + (t[i + 1] - t_hat) * d
        if corrected and t[i + 1] != 0:
            d_next = (x - ideal(x, t[i + 1])) / t[i + 1]
            levels.append(t[i + 1])
            x = x_hat + (t[i + 1] - t_hat) * (0.5 * d + 0.5 * d_next)
    return x, levels


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("s_churn", "interval", "s_noise"),
    [
        (5.0, (0.0, 1e9), 1.0),
        (40.0, (0.05, 50.0), 1.003),
        (1e9, (0.3, 2.0), 1.1),
        (0.0, (0.0, 1e9), 1.0),
    ],
)
def test_churn_agrees_with_algorithm_2(solver, s_churn, interval, s_noise):
    shape, denoise = (2, 1, 3, 3), Ideal()
    start = np.random.default_rng(0).normal(size=shape)
    noise, _ = churn_noise(shape)
    churn = Churn(s_churn, noise, interval, s_noise)
    samples = solver(denoise, torch.from_numpy(start), 18, churn=churn, dtype=torch.float64)
    expected, levels = algorithm(start, 18, s_churn, interval, s_noise, noise, solver is heun)
    np.testing.assert_allclose(samples.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert denoise.sigmas == pytest.approx(levels)
    assert len(levels) == (35 if solver is heun else 18)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_churn_of_zero_is_the_deterministic_sampler_bit_for_bit(solver, dtype):
    start = torch.randn(2, 3, 4, 4)
    noise, steps = churn_noise(start.shape)
    expected = solver(Ideal(), start, 10, dtype=dtype)
    assert torch.equal(solver(Ideal(), start, 10, churn=Churn(0.0, noise), dtype=dtype), expected)
    outside = Churn(40.0, noise, (100.0, 200.0))
    assert torch.equal(solver(Ideal(), start, 10, churn=outside, dtype=dtype), expected)
    assert steps == []


def test_noise_is_added_only_inside_the_interval():
    """Levels of 4 steps, equally spaced (ρ = 1): 3, 2.1, 1.2, 0.3."""
    noise, steps = churn_noise((1, 1, 1, 1))
    for interval, expected in (
        ((1.0, 2.5), [1, 2]),
        ((0.3, 3.0), [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]),
        ((0.31, 2.99), [1, 2]),
        ((2.2, 2.3), []),
    ):
        heun(Ideal(), torch.ones(1, 1, 1, 1), 4, 0.3, 3.0, 1.0, churn=Churn(1.0, noise, interval))
        assert steps == expected
        steps.clear()


@pytest.mark.parametrize("high", [80.0, 3.0, 0.7])
def test_an_interval_includes_its_end_points(high):
    """Although (σ_max^{1/ρ})^ρ equals σ_max only up to rounding."""
    noise, steps = churn_noise((1, 1, 1, 1))
    churn = Churn(1.0, noise, (0.002, high))
    heun(Ideal(), torch.ones(1, 1, 1, 1), 5, 0.002, high, churn=churn)
    assert steps == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("amount", "steps", "gamma"),
    [(1.0, 10, 0.1), (4.0, 10, 0.4), (4.2, 10, MAX_GAMMA), (1e6, 10, MAX_GAMMA), (0.0, 10, 0.0)],
)
def test_a_step_adds_its_share_of_churn_up_to_the_maximum(amount, steps, gamma):
    churn = Churn(amount, lambda step: torch.ones(1, 1, 1, 1))
    assert churn.sigma_hat(3.0, steps) == pytest.approx(3.0 * (1 + gamma), rel=1e-12)
    x, sigma_hat = churn.add_noise(torch.zeros(1, 1, 1, 1, dtype=torch.float64), 3.0, 0, steps)
    assert sigma_hat == churn.sigma_hat(3.0, steps)
    assert float(x) == pytest.approx(3.0 * np.sqrt((1 + gamma) ** 2 - 1), rel=1e-12)


@pytest.mark.parametrize("amount", [5.0, 1e9])
def test_stochastic_samples_have_the_distribution_of_the_data(amount):
    """Even from a single initial noise: churn makes the samples differ."""
    shape = (64, 1, 16, 16)
    noise, _ = churn_noise(shape)
    samples = heun(Ideal(), torch.randn(shape), 64, churn=Churn(amount, noise))
    count = samples.numel()
    assert float(samples.mean()) == pytest.approx(MU, abs=4 * S / count**0.5)
    assert float(samples.std()) == pytest.approx(S, rel=4 / (2 * count) ** 0.5 + 0.01)
    same_start = heun(Ideal(), torch.ones(shape), 64, churn=Churn(amount, noise))
    assert float(same_start.std()) > (0.95 if amount > 10 else 0.5) * S
    scaled = heun(Ideal(), torch.randn(shape), 64, churn=Churn(amount, noise, scale=1.1))
    assert float(scaled.std()) > 1.02 * S
