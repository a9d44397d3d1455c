"""Latents: normalization, moments, shards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edm2.data.latents import (
    LatentMoments,
    LatentShards,
    Normalization,
    latent_facts,
    latent_sample,
)
from edm2.data.shards import write_shard
from edm2.params import UserError
from edm2.runtime.manifest import write_manifest


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std [40, 3, 4, 4], of another scale and offset in each channel."""
    rng = np.random.default_rng(0)
    scale, offset = np.array([0.2, 1.0, 5.0]), np.array([3.0, 0.0, -10.0])
    mean = rng.normal(size=(40, 3, 4, 4)) * scale[:, None, None] + offset[:, None, None]
    std = rng.uniform(0.1, 0.5, size=mean.shape) * scale[:, None, None]
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def draw(mean: torch.Tensor, std: torch.Tensor, times: int) -> np.ndarray:
    """[times, N, C, H, W] samples of N(mean, std²)."""
    noise = np.random.default_rng(1).normal(size=(times, *mean.shape))
    return mean.numpy() + std.numpy() * noise


def test_moments_are_those_of_drawn_latents(latents) -> None:
    moments = LatentMoments(3)
    for start in (0, 15, 30):  # streamed in uneven parts
        moments.update(*(tensor[start : start + 15] for tensor in latents))
    found, drawn = moments.normalization(), draw(*latents, times=200)
    std = drawn.std(axis=(0, 1, 3, 4))
    np.testing.assert_allclose(found.std, std, rtol=0.01)
    np.testing.assert_array_less(np.abs(found.mean - drawn.mean(axis=(0, 1, 3, 4))), 0.02 * std)


def test_moments_are_exact_by_the_law_of_total_variance(latents) -> None:
    moments = LatentMoments(3)
    moments.update(*latents)
    mean, std = (tensor.double().numpy() for tensor in latents)
    total = (std**2).mean(axis=(0, 2, 3)) + mean.var(axis=(0, 2, 3))
    np.testing.assert_allclose(moments.normalization().std, np.sqrt(total), rtol=1e-6)
    np.testing.assert_allclose(moments.normalization().mean, mean.mean(axis=(0, 2, 3)), rtol=1e-6)


def test_normalized_latents_have_zero_mean_and_half_std(latents) -> None:
    moments = LatentMoments(3)
    moments.update(*latents)
    drawn = torch.from_numpy(draw(*latents, times=50)).float().flatten(0, 1)
    found = moments.normalization().normalize(drawn).double().numpy()
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0, atol=0.01)
    np.testing.assert_allclose(found.std(axis=(0, 2, 3)), 0.5, rtol=0.01)


def test_denormalize_is_the_inverse(latents) -> None:
    norm = Normalization(torch.tensor([3.0, 0.0, -10.0]), torch.tensor([0.2, 1.0, 5.0]))
    torch.testing.assert_close(norm.denormalize(norm.normalize(latents[0])), latents[0])


def test_normalization_by_hand() -> None:
    norm = Normalization(torch.tensor([2.0, 0.0]), torch.tensor([4.0, 0.5]))
    x = torch.tensor([10.0, 1.0]).reshape(1, 2, 1, 1)
    assert norm.normalize(x).flatten().tolist() == [1.0, 1.0]  # (10 − 2)/4/2, (1 − 0)/0.5/2


@pytest.fixture
def folder(tmp_path: Path, latents) -> Path:
    samples = [
        latent_sample(f"{i:08d}", mean, std, i % 2)
        for i, (mean, std) in enumerate(zip(*latents, strict=True))
    ]
    write_shard(tmp_path / "train-000000.tar", samples[:25])
    write_shard(tmp_path / "train-000001.tar", samples[25:])
    return tmp_path


def test_shards_give_latents_of_16_bits(folder: Path, latents) -> None:
    write_manifest(folder, classes=["a", "b"], **latent_facts(folder))
    shards = LatentShards(folder, "train")
    assert (len(shards), shards.shape, shards.classes) == (40, (3, 4, 4), ["a", "b"])
    mean, std, labels = shards.batch([30, 1])
    assert mean.dtype == std.dtype == torch.float32
    for found, expected in zip((mean, std), latents, strict=True):
        np.testing.assert_array_equal(found, expected.numpy()[[30, 1]].astype(np.float16))
    assert labels.tolist() == [0, 1]


def test_facts_are_over_all_shards(folder: Path, latents) -> None:
    facts = latent_facts(folder)
    mean, std = (tensor.double().numpy() for tensor in latents)
    total = np.sqrt((std**2).mean(axis=(0, 2, 3)) + mean.var(axis=(0, 2, 3)))
    assert facts["shape"] == [3, 4, 4]
    np.testing.assert_allclose(facts["std"], total, rtol=1e-3)
    np.testing.assert_allclose(facts["mean"], mean.mean(axis=(0, 2, 3)), atol=1e-3)


def test_constants_take_the_place_of_what_is_measured(folder: Path) -> None:
    given = Normalization(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 4.0, 8.0]))
    facts = latent_facts(folder, given)
    assert facts == {"shape": [3, 4, 4], "mean": [1.0, 2.0, 3.0], "std": [0.5, 4.0, 8.0]}


def test_a_channel_that_says_nothing_is_refused(tmp_path: Path, latents) -> None:
    mean, std = (tensor.clone() for tensor in latents)
    mean[:, 1], std[:, 1] = 2.0, 0.0
    write_shard(
        tmp_path / "train-000000.tar",
        [latent_sample("0", m, s, 0) for m, s in zip(mean, std, strict=True)],
    )
    with pytest.raises(UserError, match="latent channel 1 is the same"):
        latent_facts(tmp_path)


def test_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no latent shards"):
        latent_facts(tmp_path)
