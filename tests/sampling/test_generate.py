"""From seeds to samples."""

import numpy as np
import pytest
import torch

from edm2.params.evaluation import Sampling
from edm2.sampling import euler, heun
from edm2.sampling.generate import generate, seed_churn, seed_labels, seed_noise

SHAPE = (2, 4, 4)
CPU = torch.device("cpu")


def denoise(x, sigma, labels):
    """An elementwise denoiser that depends on all its arguments."""
    return torch.tanh(x + labels[:, None, None, None]) / (1 + sigma[:, None, None, None])


DETERMINISTIC = {
    "solver": "heun",
    "steps": 4,
    "sigma_min": 0.01,
    "sigma_max": 10.0,
    "rho": 7.0,
    "churn": 0.0,
    "churn_interval": None,
    "churn_noise": 1.0,
    "dtype": "float32",
    "labels": "balanced",
}
STOCHASTIC = {"churn": 1.0, "churn_interval": [0.05, 20.0], "churn_noise": 1.1}
both_kinds = pytest.mark.parametrize(
    "changes", [{}, STOCHASTIC], ids=["deterministic", "stochastic"]
)


def samples(seeds, max_batch, **changes):
    sampling = Sampling(**{**DETERMINISTIC, **changes}, batch=max_batch)
    labels = seed_labels(seeds, 3, "balanced")
    batches = list(generate(denoise, seeds, labels, SHAPE, sampling, CPU))
    assert all(len(b.seeds) == len(b.labels) == len(b.samples) <= max_batch for b in batches)
    assert torch.cat([batch.labels for batch in batches]).equal(labels)
    return {
        seed: image
        for batch in batches
        for seed, image in zip(batch.seeds, batch.samples, strict=True)
    }


@both_kinds
def test_a_sample_depends_on_its_seed_alone(changes):
    """Not on the batch size or on the other seeds of its batch."""
    whole = samples(range(12), 12, **changes)
    for seeds, batch in ((range(12), 5), (range(12), 1), (range(4, 9), 3)):
        part = samples(seeds, batch, **changes)
        assert list(part) == list(seeds)
        assert all(torch.equal(part[seed], whole[seed]) for seed in seeds)
    assert len({tuple(image.ravel().tolist()) for image in whole.values()}) == 12


@both_kinds
def test_samples_neither_use_nor_change_the_global_random_state(changes):
    torch.manual_seed(0)
    first, expected = samples(range(3), 3, **changes), torch.rand(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), expected)
    assert all(
        torch.equal(first[seed], image) for seed, image in samples(range(3), 3, **changes).items()
    )


def test_solver_and_dtype_are_those_of_the_params():
    """Compared with direct calls of the solvers, with the seeds' labels and noise."""

    def denoise_labeled(x, sigma):
        return denoise(x, sigma, seed_labels(range(3), 3, "balanced"))

    noise = seed_noise(range(3), SHAPE, CPU)
    for name, solver in (("heun", heun), ("euler", euler)):
        for dtype in (torch.float32, torch.float64):
            expected = solver(denoise_labeled, noise, 4, 0.01, 10.0, 7.0, dtype=dtype)
            images = samples(range(3), 3, solver=name, dtype=str(dtype).removeprefix("torch."))
            assert torch.equal(torch.stack(list(images.values())), expected)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({}, {"solver": "euler"}),
        ({}, {"dtype": "float64"}),
        ({}, {"sigma_min": 0.02}),
        ({}, {"sigma_max": 11.0}),
        ({}, {"rho": 6.0}),
        ({}, STOCHASTIC),
        (STOCHASTIC, {"churn": 0.5}),
        (STOCHASTIC, {"churn_noise": 1.0}),
        (STOCHASTIC, {"churn_interval": [0.05, 0.2]}),
    ],
)
def test_every_param_changes_the_samples(before, change):
    old, new = samples(range(2), 2, **before), samples(range(2), 2, **{**before, **change})
    assert all(not torch.equal(old[seed], new[seed]) for seed in old)


def test_churn_noise_is_independent_between_steps_and_seeds_and_of_the_initial_noise():
    sampling = Sampling(**{**DETERMINISTIC, **STOCHASTIC}, batch=1)
    churn = seed_churn(range(50), (16, 16), sampling, CPU)
    noise = [seed_noise(range(50), (16, 16), CPU), *(churn.noise(step) for step in range(3))]
    rows = torch.cat(noise).reshape(200, -1).double().numpy()
    correlations = np.corrcoef(rows)[np.triu_indices(200, 1)]
    assert np.abs(correlations).max() < 0.4
    assert rows.std() == pytest.approx(1, abs=0.02)
    assert (churn.amount, churn.interval, churn.scale) == (1.0, (0.05, 20.0), 1.1)


def test_noise_is_standard_normal():
    noise = seed_noise(range(400), (4, 8, 8), CPU).double().numpy()
    assert noise.shape == (400, 4, 8, 8)
    assert noise.mean() == pytest.approx(0, abs=0.015)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3, abs=0.1)
    correlations = np.corrcoef(noise.reshape(400, -1))[np.triu_indices(400, 1)]
    assert np.abs(correlations).max() < 0.4  # 5 standard deviations are 0.31


@pytest.mark.parametrize("first", [0, 7, 1000])
def test_labels_of_consecutive_seeds_are_balanced(first):
    labels = seed_labels(range(first, first + 100), 8, "balanced")
    assert labels.dtype == torch.int64
    counts = labels.bincount(minlength=8)
    assert counts.sum() == 100
    assert int(counts.max() - counts.min()) <= 1
    some = seed_labels(range(first + 13, first + 20), 8, "balanced")
    assert torch.equal(some, labels[13:20])


def test_uniform_labels_depend_on_each_seed_alone():
    labels = seed_labels(range(4000), 8, "uniform")
    assert labels.dtype == torch.int64
    counts = labels.bincount(minlength=8).double()
    chi_square = float(((counts - 500) ** 2 / 500).sum())
    assert (
        0.5 < chi_square < 30
    )  # 7 degrees of freedom: 99.99 % are below 29.9; balanced labels give 0
    assert torch.equal(seed_labels([7, 3, 2999], 8, "uniform"), labels[[7, 3, 2999]])
