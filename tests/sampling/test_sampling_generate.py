"""Seeds → samples."""

import numpy as np
import pytest
import torch

from edm2.params.evaluation import Sampling
from edm2.sampling.generate import generate, seed_labels, seed_noise

SHAPE = (2, 4, 4)
CPU = torch.device("cpu")


def denoise(x, sigma, labels):
    """An elementwise network that looks at all it is given."""
    return torch.tanh(x + labels[:, None, None, None]) / (1 + sigma[:, None, None, None])


def samples(seeds, batch):
    sampling = Sampling(steps=4, sigma_min=0.01, sigma_max=10.0, rho=7.0, batch=batch)
    parts = list(generate(denoise, seeds, SHAPE, 3, sampling, CPU))
    assert all(len(part) == len(found) <= batch for part, found in parts)
    return {seed: image for part, found in parts
            for seed, image in zip(part, found, strict=True)}  # fmt: skip


def test_a_sample_depends_on_its_seed_alone():
    """Whatever the batch and whichever seeds come with it."""
    whole = samples(range(12), 12)
    for seeds, batch in ((range(12), 5), (range(12), 1), (range(4, 9), 3)):
        found = samples(seeds, batch)
        assert list(found) == list(seeds)
        assert all(torch.equal(found[seed], whole[seed]) for seed in seeds)
    assert len({tuple(image.ravel().tolist()) for image in whole.values()}) == 12


def test_samples_take_no_part_in_the_global_randomness():
    torch.manual_seed(0)
    first, expected = samples(range(3), 3), torch.rand(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[seed], image) for seed, image in samples(range(3), 3).items())


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_seeds(monkeypatch, size):
    """Each seed on one rank, the same image as without ranks."""
    whole, seen = samples(range(5, 18), 4), {}
    monkeypatch.setenv("WORLD_SIZE", str(size))
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        found = samples(range(5, 18), 4)
        assert found
        assert not seen.keys() & found.keys()
        seen |= found
    assert seen.keys() == whole.keys()
    assert all(torch.equal(seen[seed], whole[seed]) for seed in whole)


def test_noise_is_standard_normal():
    noise = seed_noise(range(400), (4, 8, 8)).double().numpy()
    assert noise.shape == (400, 4, 8, 8)
    assert noise.mean() == pytest.approx(0, abs=0.015)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3, abs=0.1)
    between = np.corrcoef(noise.reshape(400, -1))[np.triu_indices(400, 1)]
    assert np.abs(between).max() < 0.4  # 5 standard deviations are 0.31


@pytest.mark.parametrize("first", [0, 7, 1000])
def test_labels_are_balanced_in_any_run_of_seeds(first):
    labels = seed_labels(range(first, first + 100), 8)
    assert labels.dtype == torch.int64
    counts = labels.bincount(minlength=8)
    assert counts.sum() == 100
    assert int(counts.max() - counts.min()) <= 1
    again = seed_labels(range(first + 13, first + 20), 8)
    assert torch.equal(again, labels[13:20])
