"""Latents: moments and shards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from edm2.data.latents import (
    LatentMoments,
    LatentShards,
    latent_metadata,
    latent_sample,
    write_latents,
)
from edm2.data.normalization import Normalization
from edm2.data.shards import write_shard
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime.manifest import write_manifest


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std [40, 3, 4, 4], with a different scale and offset in each channel."""
    rng = np.random.default_rng(0)
    scale, offset = np.array([0.2, 1.0, 5.0]), np.array([3.0, 0.0, -10.0])
    mean = rng.normal(size=(40, 3, 4, 4)) * scale[:, None, None] + offset[:, None, None]
    std = rng.uniform(0.1, 0.5, size=mean.shape) * scale[:, None, None]
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def draw(mean: torch.Tensor, std: torch.Tensor, times: int) -> np.ndarray:
    """[times, N, C, H, W] samples of N(mean, std²)."""
    noise = np.random.default_rng(1).normal(size=(times, *mean.shape))
    return mean.numpy() + std.numpy() * noise


def test_moments_agree_with_those_of_random_latents(latents) -> None:
    moments = LatentMoments.empty((3, 4, 4))
    for start in (0, 15, 30):  # streamed in uneven batches
        moments.update(*(tensor[start : start + 15] for tensor in latents))
    normalization, samples = moments.normalization(), draw(*latents, times=200)
    mean, std = samples.mean(axis=(0, 1, 3, 4)), samples.std(axis=(0, 1, 3, 4))
    np.testing.assert_allclose(normalization.std, std, rtol=0.01)
    np.testing.assert_array_less(np.abs(normalization.mean - mean), 0.02 * std)


def test_moments_are_exact_by_the_law_of_total_variance(latents) -> None:
    moments = LatentMoments.empty((3, 4, 4))
    moments.update(*latents)
    mean, std = (tensor.double().numpy() for tensor in latents)
    total = (std**2).mean(axis=(0, 2, 3)) + mean.var(axis=(0, 2, 3))
    np.testing.assert_allclose(moments.normalization().std, np.sqrt(total), rtol=1e-6)
    np.testing.assert_allclose(moments.normalization().mean, mean.mean(axis=(0, 2, 3)), rtol=1e-6)


def test_merged_moments_are_those_of_all(latents) -> None:
    parts = []
    for part in (slice(15), slice(15, 40)):
        parts.append(LatentMoments.empty((3, 4, 4)))
        parts[-1].update(*(tensor[part] for tensor in latents))
    merged = parts[0].merge(parts[1])
    mean, std = (tensor.double().numpy() for tensor in latents)
    assert merged.images == 40
    np.testing.assert_allclose(merged.sum, mean.sum(axis=(0, 2, 3)), rtol=1e-12)
    squares = (mean**2 + std**2).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(merged.sum_of_squares, squares, rtol=1e-12)


def test_json_keeps_all_bits_of_moments(latents) -> None:
    moments = LatentMoments.empty((3, 4, 4))
    moments.update(*latents)
    read = LatentMoments.from_json(json.loads(json.dumps(moments.to_json())))
    assert (read.shape, read.images) == ((3, 4, 4), 40)
    assert torch.equal(read.sum, moments.sum)
    assert torch.equal(read.sum_of_squares, moments.sum_of_squares)


def test_latents_of_another_shape_are_refused(latents) -> None:
    with pytest.raises(ValueError, match="expected latents of"):
        LatentMoments.empty((3, 4, 5)).update(*latents)


def test_normalized_latents_have_zero_mean_and_half_std(latents) -> None:
    moments = LatentMoments.empty((3, 4, 4))
    moments.update(*latents)
    samples = torch.from_numpy(draw(*latents, times=50)).float().flatten(0, 1)
    normalized = moments.normalization().normalize(samples).double().numpy()
    np.testing.assert_allclose(normalized.mean(axis=(0, 2, 3)), 0, atol=0.01)
    np.testing.assert_allclose(normalized.std(axis=(0, 2, 3)), 0.5, rtol=0.01)


@pytest.fixture
def folder(tmp_path: Path, latents) -> Path:
    samples = [
        latent_sample(f"{i:08d}", mean, std, i % 2)
        for i, (mean, std) in enumerate(zip(*latents, strict=True))
    ]
    for k, part in enumerate((slice(25), slice(25, 40))):
        moments = LatentMoments.empty((3, 4, 4))
        moments.update(*(tensor[part].half() for tensor in latents))
        write_latents(tmp_path / f"train-{k:06d}.tar", moments, samples[part])
    return tmp_path


def test_shards_store_latents_in_16_bits(folder: Path, latents) -> None:
    write_manifest(folder, classes=["a", "b"], **latent_metadata(folder))
    shards = LatentShards(folder, "train")
    assert (len(shards), shards.shape, shards.classes) == (40, (3, 4, 4), ["a", "b"])
    mean, std, labels = shards.batch([30, 1])
    assert mean.dtype == std.dtype == torch.float16
    for batch, expected in zip((mean, std), latents, strict=True):
        np.testing.assert_array_equal(batch, expected.numpy()[[30, 1]].astype(np.float16))
    assert labels.tolist() == [0, 1]


def test_shards_can_store_latents_in_32_bits(tmp_path: Path, latents) -> None:
    """And numbers that 16 bits cannot hold; those that are not finite are refused all the same."""
    mean, std = latents
    mean[1, 0, 0, 0] = 7e4
    moments = LatentMoments.empty((3, 4, 4))
    moments.update(mean, std)
    samples = [latent_sample(str(i), mean[i], std[i], i, torch.float32) for i in range(3)]
    write_latents(tmp_path / "train-000000.tar", moments, samples)
    metadata = latent_metadata(tmp_path, dtype=torch.float32)
    write_manifest(tmp_path, classes=["a"], **metadata)
    shards = LatentShards(tmp_path, "train")
    read_mean, read_std, labels = shards.batch([2, 1])
    assert torch.equal(read_mean, mean[[2, 1]])
    assert torch.equal(read_std, std[[2, 1]])
    assert labels.tolist() == [2, 1]
    for name, bad in (("mean", torch.inf), ("std", torch.nan)):
        tensors = {"mean": mean[0].clone(), "std": std[0].clone()}
        tensors[name][0, 0, 0] = bad
        write_shard(tmp_path / "train-000000.tar", [{**samples[0], "safetensors": save(tensors)}])
        write_manifest(tmp_path, classes=["a"], **metadata)
        with pytest.raises(NotFiniteError, match="latent number 0"):
            LatentShards(tmp_path, "train").batch([0])


def test_metadata_covers_all_shards(folder: Path, latents) -> None:
    metadata = latent_metadata(folder)
    mean, std = (tensor.double().numpy() for tensor in latents)
    total = np.sqrt((std**2).mean(axis=(0, 2, 3)) + mean.var(axis=(0, 2, 3)))
    assert metadata["shape"] == [3, 4, 4]
    np.testing.assert_allclose(metadata["std"], total, rtol=1e-3)
    np.testing.assert_allclose(metadata["mean"], mean.mean(axis=(0, 2, 3)), atol=1e-3)


def test_a_given_normalization_replaces_the_measured_one(folder: Path) -> None:
    normalization = Normalization(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 4.0, 8.0]))
    metadata = latent_metadata(folder, normalization)
    assert metadata == {"shape": [3, 4, 4], "mean": [1.0, 2.0, 3.0], "std": [0.5, 4.0, 8.0]}


def test_a_constant_channel_is_refused(tmp_path: Path, latents) -> None:
    mean, std = (tensor.clone() for tensor in latents)
    mean[:, 1], std[:, 1] = 2.0, 0.0
    moments = LatentMoments.empty((3, 4, 4))
    moments.update(mean, std)
    write_latents(tmp_path / "train-000000.tar", moments, [latent_sample("0", mean[0], std[0], 0)])
    with pytest.raises(UserError, match="channel 1 .*vae.variance"):
        latent_metadata(tmp_path)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        latent_metadata(tmp_path)


@pytest.mark.parametrize(
    ("part", "value"), [("mean", np.nan), ("mean", -np.inf), ("mean", 7e4), ("std", np.nan)]
)
def test_latents_that_are_not_finite_in_16_bits_are_refused(latents, part, value) -> None:
    """Float16 ends at 65504. The image is named."""
    tensors = {"mean": latents[0][0].clone(), "std": latents[1][0].clone()}
    tensors[part][2, 1, 3] = value
    with pytest.raises(NotFiniteError, match=rf"00000007, {part} in float16: 1 of 48"):
        latent_sample("00000007", tensors["mean"], tensors["std"], 0)


def test_a_stored_latent_that_is_not_finite_is_refused_when_read(folder: Path, latents) -> None:
    samples = [latent_sample(f"{i:08d}", latents[0][0], latents[1][0], 0) for i in range(3)]
    std = latents[1][0].half()
    std[0, 0, 0] = np.inf
    samples[1]["safetensors"] = save({"mean": latents[0][0].half(), "std": std})
    metadata = latent_metadata(folder)
    write_shard(folder / "train-000000.tar", samples)
    write_manifest(folder, classes=["a", "b"], **metadata)
    shards = LatentShards(folder, "train")
    shards.batch([0, 2])
    with pytest.raises(NotFiniteError, match=rf"{folder}: latent number 1: not all values"):
        shards.batch([2, 1])


def test_a_channel_that_is_not_finite_is_refused(folder: Path, latents) -> None:
    """NaN is below no limit. Measured or given."""
    moments = LatentMoments.empty((3, 4, 4))
    moments.update(*latents)
    moments.sum[1] = torch.nan
    shard = folder / "train-000002.tar"
    with pytest.raises(NotFiniteError, match=r"train-000002.*sum.1: nan"):
        write_latents(shard, moments, [latent_sample("0", latents[0][0], latents[1][0], 0)])
    assert not shard.exists()
    normalization = Normalization(torch.tensor([1.0, torch.nan, 3.0]), torch.ones(3))
    with pytest.raises(NotFiniteError, match=f"{folder}: means of the latent channels: 1 of 3"):
        latent_metadata(folder, normalization)
