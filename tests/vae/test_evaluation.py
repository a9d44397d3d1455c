"""Quality of reconstructions, and statistics of latents."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from edm2.data.images import ImageShards, to_uint8
from edm2.features.classifier import Classifier
from edm2.vae.codec import Rgb
from edm2.vae.evaluation import evaluate, evaluated_images, latent_statistics
from edm2.vae.losses import perceptual_loss

CPU = torch.device("cpu")


class LowContrast(Rgb):
    """Decodes with less contrast."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(0.9 * latents + 0.3)


@pytest.fixture
def lossy() -> LowContrast:
    return LowContrast("dataset")


def test_evaluation_against_numpy(
    lossy: LowContrast, images: ImageShards, backbone: Classifier
) -> None:
    metrics = evaluate(lossy, images, backbone, CPU)
    pixels = images.batch(range(12))[0].double().numpy()
    x = pixels / 127.5 - 1
    y = np.rint(np.clip(127.5 * (0.9 * x + 0.3) + 127.5, 0, 255)) / 127.5 - 1
    psnr = 10 * np.log10(2**2 / ((x - y) ** 2).mean(axis=(1, 2, 3)))
    assert metrics["psnr"] == pytest.approx(psnr.mean(), rel=1e-3)
    assert metrics["latent/std"] == pytest.approx(x.std(), rel=1e-4)
    x, y = (torch.from_numpy(value).float() for value in (x, y))
    assert metrics["perceptual_classifier"] == pytest.approx(
        float(perceptual_loss(backbone)(x, y)), rel=1e-2
    )


def test_small_batches_of_large_images_are_averaged_by_their_size(
    lossy, images: ImageShards, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(lossy, images, backbone, CPU)
    monkeypatch.setattr("edm2.data.images.MAX_BATCH_PIXELS", 5 * 8**2)  # batches of 5, 5 and 2
    parts = evaluate(lossy, images, backbone, CPU)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_perfect_reconstruction(images: ImageShards, backbone: Classifier) -> None:
    metrics = evaluate(Rgb("dataset"), images, backbone, CPU)
    assert metrics["psnr"] == np.inf
    assert metrics["perceptual_classifier"] == 0


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two uint8 images [3, R, R] by its formula, window by window (Wang et al. 2004, eq. 13).

    All 7×7 windows inside the image, equal weights, sample covariances, mean over channels.
    """
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        for top in range(x.shape[0] - 6):
            for left in range(x.shape[1] - 6):
                p, q = (z[top : top + 7, left : left + 7].ravel() for z in (x, y))
                (vp, cov), (_, vq) = np.cov(p, q)
                values.append(
                    (2 * p.mean() * q.mean() + c1)
                    * (2 * cov + c2)
                    / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (vp + vq + c2))
                )
    return float(np.mean(values))


def test_ssim_window_by_window(lossy, images: ImageShards, backbone: Classifier) -> None:
    pixels = images.batch(range(12))[0]
    decoded = lossy.decode(lossy.encode(pixels)[0])
    expected = np.mean(
        [similarity(a.numpy(), b.numpy()) for a, b in zip(pixels, decoded, strict=True)]
    )
    metrics = evaluate(lossy, images, backbone, CPU)
    assert metrics["ssim"] == pytest.approx(expected, rel=1e-5)
    assert 0 < expected < 0.99
    assert evaluate(Rgb("dataset"), images, backbone, CPU)["ssim"] == 1


def test_statistics_of_latents_against_scipy() -> None:
    rng = np.random.default_rng(0)
    latents = np.stack([rng.gamma(2.0, size=500), rng.normal(1, 3, size=500) ** 3]).astype("f4")
    values = latents.astype(float).ravel()
    statistics = latent_statistics(latents)
    expected = {
        "std": np.sqrt(((values - values.mean()) ** 2).mean()),
        "mean_abs": np.abs(values).mean(),
        "skewness": stats.skew(values),
        "kurtosis": stats.kurtosis(values, fisher=False),
        "mean_0": latents[0].mean(dtype=float),
        "mean_1": latents[1].mean(dtype=float),
        "std_0": latents[0].std(dtype=float),
        "std_1": latents[1].std(dtype=float),
        **{
            f"quantile_{q:g}": stats.scoreatpercentile(values, 100 * q)
            for q in (0, 0.2, 0.4, 0.6, 0.8, 1)
        },
    }
    assert statistics == pytest.approx({f"latent/{k}": v for k, v in expected.items()}, rel=1e-5)


def test_a_gaussian_has_kurtosis_three_and_no_skewness() -> None:
    statistics = latent_statistics(np.random.default_rng(0).normal(size=(4, 50_000)))
    assert statistics["latent/kurtosis"] == pytest.approx(3, abs=0.1)
    assert statistics["latent/skewness"] == pytest.approx(0, abs=0.03)
    assert statistics["latent/mean_abs"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.01)


def test_statistics_of_constant_latents_are_finite() -> None:
    statistics = latent_statistics(np.full((2, 10), 0.5))
    assert (statistics["latent/std"], statistics["latent/kurtosis"]) == (0, 0)
    assert statistics["latent/quantile_0"] == statistics["latent/quantile_1"] == 0.5


def test_statistics_are_of_the_latent_means_of_all_images(
    images: ImageShards, backbone: Classifier
) -> None:
    """In pixel space, where latents are the pixels."""
    metrics = evaluate(Rgb("dataset"), images, backbone, CPU)
    x = images.batch(range(12))[0].double().numpy() / 127.5 - 1
    assert metrics["latent/quantile_0"] == pytest.approx(x.min())
    assert metrics["latent/quantile_1"] == pytest.approx(x.max())
    for c in range(3):
        assert metrics[f"latent/mean_{c}"] == pytest.approx(x[:, c].mean(), rel=1e-4)
        assert metrics[f"latent/std_{c}"] == pytest.approx(x[:, c].std(), rel=1e-4)


def test_statistics_of_many_latents_use_evenly_spaced_values(
    images: ImageShards, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 300 of the values of 12 images of 192: every ninth of each channel. Every eighth would
    be in the first column only.
    """
    monkeypatch.setattr("edm2.vae.evaluation.MAX_LATENT_VALUES", 300)
    metrics = evaluate(Rgb("dataset"), images, backbone, CPU)
    x = images.batch(range(12))[0].double().numpy() / 127.5 - 1
    values = x.transpose(1, 0, 2, 3).reshape(3, -1)[:, ::9]
    assert metrics["latent/std"] == pytest.approx(values.std(), rel=1e-4)
    assert metrics["latent/mean_abs"] == pytest.approx(np.abs(values).mean(), rel=1e-4)


def test_a_limit_takes_a_fixed_random_subset(
    lossy: LowContrast, images: ImageShards, backbone: Classifier
) -> None:
    subset = evaluated_images(12, 5)
    assert subset == evaluated_images(12, 5)
    assert list(subset) == sorted(set(subset))
    assert len(subset) == 5
    assert subset != list(range(5))
    assert evaluated_images(12, 12) == evaluated_images(12, None) == range(12)
    metrics = evaluate(lossy, images, backbone, CPU, limit=5)
    pixels = images.batch(subset)[0]
    decoded = lossy.decode(lossy.encode(pixels)[0])
    expected = [similarity(a.numpy(), b.numpy()) for a, b in zip(pixels, decoded, strict=True)]
    assert metrics["evaluated_images"] == 5
    assert metrics["ssim"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert evaluate(lossy, images, backbone, CPU, limit=13)["evaluated_images"] == 12


def test_every_image_is_as_likely_in_a_subset() -> None:
    """Halves of 10,000 images have about as many of the first thousand as of the last."""
    subset = np.array(evaluated_images(10_000, 5000))
    counts = np.bincount(subset // 1000)
    assert np.abs(counts - 500).max() < 4 * np.sqrt(1000) / 2


def test_ranks_share_the_images(
    lossy, images: ImageShards, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank sends what the first one needs for the metrics of all images."""
    monkeypatch.setattr("edm2.vae.evaluation.BATCH", 2)
    alone = evaluate(lossy, images, backbone, CPU)
    sent: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, receive in (("1", lambda value: sent.append(value) or []), ("0", lambda _: sent)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr("edm2.data.passes.receive_from_others", receive)
        metrics = evaluate(lossy, images, backbone, CPU)
        assert metrics == ({} if rank == "1" else alone)
