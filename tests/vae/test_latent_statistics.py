"""Spectrum and channels of latents, and the decoder's robustness to noise."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from edm2.data.images import ImageShards
from edm2.data.normalization import Normalization
from edm2.features.classifier import Classifier
from edm2.vae.codec import Rgb
from edm2.vae.evaluation import evaluate
from edm2.vae.latent_statistics import ChannelSums, channels_table, radial_power, spectrum_table
from edm2.vae.robustness import SIGMAS, robustness_table

CPU = torch.device("cpu")


def sums_of(*parts: torch.Tensor, noise: float = 0.0) -> ChannelSums:
    sums = ChannelSums.empty(parts[0].shape[1], parts[0].shape[-1])
    for part in parts:
        sums.add(part, torch.full_like(part, noise))
    return sums


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_wave_has_its_power_at_its_frequency() -> None:
    """3 cycles down and 4 across are 5 cycles, at four of the frequencies of that ring."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    wave = 2 * torch.cos(2 * torch.pi * 3 * y / 16) * torch.cos(2 * torch.pi * 4 * x / 16)
    power = radial_power(wave.double().expand(1, 2, 16, 16))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(16, 1 / 16), np.fft.fftfreq(16, 1 / 16)))
    ring = (np.rint(radius) == 5).sum()
    expected = torch.zeros(1, 2, 9, dtype=torch.float64)
    expected[..., 5] = 256 / ring  # the variance is 1, of 256 frequencies in all
    torch.testing.assert_close(power, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_white_noise_has_power_one_whatever_its_mean_and_scale(noise: float) -> None:
    scales = torch.tensor([0.1, 5.0])[:, None, None]
    z = randn(400, 2, 8, 8) * scales + torch.tensor([3.0, -1.0])[:, None, None]
    table = spectrum_table(sums_of(z[:150], z[150:], noise=noise), "latents")
    assert table["frequency"].tolist() == [0, 1, 2, 3, 4]
    assert table["power"].to_numpy() == pytest.approx(1, abs=0.12)
    assert table["sigma"].to_numpy() == pytest.approx(0.5 * np.sqrt(table["power"]))
    share = np.mean([s**2 / (s**2 + noise**2) for s in (0.1, 5.0)])
    assert table["power_without_noise"].to_numpy() == pytest.approx(share, rel=0.15)


def test_channels_against_numpy_and_scipy() -> None:
    z = randn(50, 3, 4, 4)
    z[:, 1] = z[:, 0].exp() + 2
    table = channels_table(sums_of(z[:20], z[20:], noise=0.5))
    values = z.double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    assert table["mean"].to_numpy() == pytest.approx(values.mean(1))
    assert table["std"].to_numpy() == pytest.approx(values.std(1))
    assert table["skewness"].to_numpy() == pytest.approx(stats.skew(values, axis=1))
    assert table["kurtosis"].to_numpy() == pytest.approx(
        stats.kurtosis(values, axis=1, fisher=False)
    )
    assert table.filter(like="correlation_").to_numpy() == pytest.approx(np.corrcoef(values))
    assert table["noise_std"].tolist() == pytest.approx([0.5] * 3)
    total = np.sqrt(values.var(1) + 0.25)
    assert table["noise_sigma"].to_numpy() == pytest.approx(0.5 * 0.5 / total)


def robustness(images: ImageShards, backbone: Classifier) -> pd.DataFrame:
    """In pixel space, with latents of standard deviation 0.2: normalized noise σ has 0.4 σ in [-1, 1]."""
    normalization = Normalization(torch.full((3,), 0.1), torch.full((3,), 0.2))
    table = robustness_table(Rgb("dataset"), normalization, images, range(12), backbone, CPU)
    assert table is not None
    return table.set_index("sigma")


def test_noise_is_in_the_units_of_normalized_latents(
    images: ImageShards, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    gray = torch.full((12, 3, 8, 8), 128, dtype=torch.uint8)  # far from the ends, which are clamped
    monkeypatch.setattr(
        images, "batch", lambda numbers: (gray[: len(numbers)], gray[:, 0, 0, 0].long())
    )
    table = robustness(images, backbone)
    assert list(table.index) == list(SIGMAS)
    for sigma in (0.1, 0.2, 0.5):
        expected = 10 * np.log10(4 / (0.4 * sigma) ** 2)
        assert table["psnr"][sigma] == pytest.approx(expected, abs=0.4)


def test_without_noise_decoding_has_the_quality_of_reconstructions(
    images: ImageShards, backbone: Classifier
) -> None:
    table, metrics = robustness(images, backbone), evaluate(Rgb("dataset"), images, backbone, CPU)
    for name in ("psnr", "ssim", "perceptual_classifier", "evaluated_images"):
        assert table[name][0.0] == metrics[name]
    assert table["ssim"].is_monotonic_decreasing
    assert table["perceptual_classifier"].is_monotonic_increasing


def test_ranks_share_the_images(
    images: ImageShards, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edm2.vae.robustness.BATCH", 4)
    alone, sent = robustness(images, backbone), []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, receive in (("1", lambda value: sent.append(value) or []), ("0", lambda _: sent)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr("edm2.data.passes.receive_from_others", receive)
        if rank == "1":
            with pytest.raises(AssertionError):  # no table
                robustness(images, backbone)
    pd.testing.assert_frame_equal(robustness(images, backbone), alone)
