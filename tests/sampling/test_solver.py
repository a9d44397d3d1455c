"""The samplers on Gaussian data, where everything has a closed form.

For data N(μ, s²) the ideal denoiser is D = (s²·x + σ²·μ)/(s² + σ²), so dx/dσ = (x − μ)·σ/(s² + σ²)
and x(σ) − μ = (x(σ_max) − μ)·√((s² + σ²)/(s² + σ_max²)).
"""

import numpy as np
import pytest
import torch

from edm2.sampling import Churn, euler, heun
from edm2.sampling.solver import noise_levels

S, MU = 0.5, 0.25
SOLVERS = [heun, euler]
MOST = np.sqrt(2) - 1  # EDM: γ is at most that


def ideal(x, sigma):
    return (S**2 * x + sigma**2 * MU) / (S**2 + sigma**2)


class Ideal:
    """The denoiser of Gaussian data; remembers what it was asked."""

    def __init__(self):
        self.sigmas, self.seen = [], []

    def __call__(self, x, sigma):
        assert sigma.shape == (len(x),)
        assert x.dtype == sigma.dtype == torch.float32
        assert sigma.unique().numel() == 1
        self.sigmas.append(float(sigma[0]))
        self.seen.append(x.clone())
        return ideal(x, sigma[:, None, None, None])


def fresh(shape, seed=1):
    """Noise of each step, and a list of the steps that asked."""
    asked = []

    def noise(step):
        asked.append(step)
        return torch.from_numpy(np.random.default_rng([seed, step]).normal(size=shape))

    return noise, asked


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
def test_one_step_is_no_way_from_sigma_max_to_sigma_min(solver):
    with pytest.raises(ValueError, match="steps = 1: expected at least 2"):
        solver(Ideal(), torch.ones(1, 1, 1, 1), steps=1)


@pytest.mark.parametrize("steps", [2, 3, 18, 32])
def test_heun_evaluates_twice_a_step_but_once_in_the_last(steps):
    """Each inner level is asked twice: at the end of a step and at the start of the next."""
    denoise = Ideal()
    heun(denoise, torch.ones(2, 1, 1, 1), steps=steps)
    levels = noise_levels(steps, 0.002, 80.0, 7.0)[:-1].tolist()
    assert len(denoise.sigmas) == 2 * steps - 1
    assert denoise.sigmas == pytest.approx([levels[0], *np.repeat(levels[1:], 2)])


@pytest.mark.parametrize("steps", [2, 3, 18, 32])
def test_euler_evaluates_once_a_step(steps):
    denoise = Ideal()
    euler(denoise, torch.ones(2, 1, 1, 1), steps=steps)
    assert denoise.sigmas == pytest.approx(noise_levels(steps, 0.002, 80.0, 7.0)[:-1].tolist())


@pytest.mark.parametrize(
    ("solver", "order", "steps"), [(heun, 2, (17, 33, 65, 129)), (euler, 1, (65, 129, 257, 513))]
)
@pytest.mark.parametrize("start", [1.0, -0.75])
def test_order_of_convergence(solver, order, steps, start):
    """Twice the steps: a quarter of the error, or half; the last step, Euler's to 0, is D itself."""
    low, high = 0.01, 10.0
    noise = torch.full((1, 1, 1, 1), start, dtype=torch.float64)
    before_last = MU + (start * high - MU) * np.sqrt((S**2 + low**2) / (S**2 + high**2))
    exact = ideal(before_last, low)
    found = [float(solver(Ideal(), noise, n, low, high, 7.0, dtype=torch.float64)) for n in steps]
    errors = np.abs(np.array(found) - exact)
    intervals = np.array(steps) - 1
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(intervals))
    np.testing.assert_allclose(slopes, order, atol=0.15)
    assert errors[-1] < 2e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solvers_state_is_as_wide_as_asked_and_the_denoiser_sees_float32(solver):
    """With D = 0 the solution is x = noise·σ: in float64 to the last bit that float32 shows."""
    noise = torch.linspace(-2, 2, 64).reshape(1, 1, 8, 8)
    levels = noise_levels(200, 0.002, 80.0, 7.0).numpy()
    worst = {}
    for dtype in (torch.float32, torch.float64):
        off = []

        def denoise(x, sigma, off=off):
            assert x.dtype == sigma.dtype == torch.float32
            level = levels[np.abs(levels - float(sigma[0])).argmin()]
            off.append(float((x.double() / (noise.double() * level) - 1).abs().max()))
            return torch.zeros_like(x)

        assert solver(denoise, noise, 200, dtype=dtype).dtype == torch.float32
        worst[dtype] = max(off)
    assert worst[torch.float64] <= 2**-24  # half a unit of the last place
    assert worst[torch.float32] > 2 * 2**-24


def test_samples_have_the_distribution_of_the_data():
    """With the paper's settings: standard deviation ½ from noise of 1."""
    samples = heun(Ideal(), torch.randn(64, 4, 8, 8))
    assert samples.shape == (64, 4, 8, 8)
    assert samples.dtype == torch.float32
    assert float(samples.std()) == pytest.approx(S, rel=0.02)
    assert float(samples.mean()) == pytest.approx(MU, abs=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_denoiser_that_knows_the_image_returns_it(solver):
    """D = y for every x: the last Euler step lands on y."""
    y = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    found = solver(lambda x, sigma: y.expand_as(x), torch.randn(3, 1, 4, 4), steps=4)
    torch.testing.assert_close(found, y.expand(3, -1, -1, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_gradients_and_the_noise_stays(solver):
    weight = torch.ones([], requires_grad=True)
    noise = torch.randn(2, 1, 4, 4)
    before = noise.clone()
    churn = Churn(10.0, lambda step: before)
    found = solver(lambda x, sigma: 0.5 * weight * x, noise, steps=3, churn=churn)
    assert not found.requires_grad
    assert torch.equal(noise, before)


def algorithm(x, steps, s_churn, interval, s_noise, noise, corrected):
    """EDM algorithm 2 in float64, line by line; and the levels it evaluates at."""
    t = noise_levels(steps, 0.002, 80.0, 7.0).numpy()
    x, levels = x * t[0], []
    for i in range(steps):
        gamma = min(s_churn / steps, MOST) if interval[0] <= t[i] <= interval[1] else 0
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
def test_churn_is_the_papers_algorithm_at_the_same_number_of_evaluations(
    solver, s_churn, interval, s_noise
):
    shape, denoise = (2, 1, 3, 3), Ideal()
    start = np.random.default_rng(0).normal(size=shape)
    noise, _ = fresh(shape)
    churn = Churn(s_churn, noise, interval, s_noise)
    found = solver(denoise, torch.from_numpy(start), 18, churn=churn, dtype=torch.float64)
    expected, levels = algorithm(start, 18, s_churn, interval, s_noise, noise, solver is heun)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert denoise.sigmas == pytest.approx(levels)
    assert len(levels) == (35 if solver is heun else 18)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_churn_the_sampler_is_the_deterministic_one_to_the_bit(solver, dtype):
    start = torch.randn(2, 3, 4, 4)
    noise, asked = fresh(start.shape)
    expected = solver(Ideal(), start, 10, dtype=dtype)
    assert torch.equal(solver(Ideal(), start, 10, churn=Churn(0.0, noise), dtype=dtype), expected)
    outside = Churn(40.0, noise, (100.0, 200.0))
    assert torch.equal(solver(Ideal(), start, 10, churn=outside, dtype=dtype), expected)
    assert asked == []


def test_noise_is_added_inside_the_interval_alone():
    """Levels of 4 steps, equally spaced (ρ = 1): 3, 2.1, 1.2, 0.3."""
    noise, asked = fresh((1, 1, 1, 1))
    for interval, steps in (
        ((1.0, 2.5), [1, 2]),
        ((0.3, 3.0), [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]),
        ((0.31, 2.99), [1, 2]),
        ((2.2, 2.3), []),
    ):
        heun(Ideal(), torch.ones(1, 1, 1, 1), 4, 0.3, 3.0, 1.0, churn=Churn(1.0, noise, interval))
        assert asked == steps
        asked.clear()


@pytest.mark.parametrize("high", [80.0, 3.0, 0.7])
def test_the_ends_of_the_noise_levels_belong_to_an_interval_of_them(high):
    """Though σ_max^{1/ρ} to the power of ρ is σ_max up to rounding alone."""
    noise, asked = fresh((1, 1, 1, 1))
    churn = Churn(1.0, noise, (0.002, high))
    heun(Ideal(), torch.ones(1, 1, 1, 1), 5, 0.002, high, churn=churn)
    assert asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("amount", "steps", "gamma"),
    [(1.0, 10, 0.1), (4.0, 10, 0.4), (4.2, 10, MOST), (1e6, 10, MOST), (0.0, 10, 0.0)],
)
def test_a_step_adds_its_share_of_churn_and_no_more_than_there_is(amount, steps, gamma):
    churn = Churn(amount, lambda step: torch.ones(1, 1, 1, 1))
    assert churn.raised(3.0, steps) == pytest.approx(3.0 * (1 + gamma), rel=1e-12)
    x, raised = churn.add_noise(torch.zeros(1, 1, 1, 1, dtype=torch.float64), 3.0, 0, steps)
    assert raised == churn.raised(3.0, steps)
    assert float(x) == pytest.approx(3.0 * np.sqrt((1 + gamma) ** 2 - 1), rel=1e-12)


@pytest.mark.parametrize("amount", [5.0, 1e9])
def test_stochastic_samples_have_the_distribution_of_the_data(amount):
    """The initial noise alone does not decide: samples of one start spread over the data, too."""
    shape = (64, 1, 16, 16)
    noise, _ = fresh(shape)
    found = heun(Ideal(), torch.randn(shape), 64, churn=Churn(amount, noise))
    count = found.numel()
    assert float(found.mean()) == pytest.approx(MU, abs=4 * S / count**0.5)
    assert float(found.std()) == pytest.approx(S, rel=4 / (2 * count) ** 0.5 + 0.01)
    same = heun(Ideal(), torch.ones(shape), 64, churn=Churn(amount, noise))
    assert float(same.std()) > (0.95 if amount > 10 else 0.5) * S
    wider = heun(Ideal(), torch.randn(shape), 64, churn=Churn(amount, noise, scale=1.1))
    assert float(wider.std()) > 1.02 * S
