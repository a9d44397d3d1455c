"""SSIM of batches, compared with scikit-image and with images whose similarity is known."""

import numpy as np
import pytest
import skimage.metrics
import torch

from edm2.vae.similarity import C1, C2, structural_similarity


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("shape", [(5, 3, 16, 16), (2, 1, 7, 7), (3, 3, 12, 31)])
@pytest.mark.parametrize("chunk", [1, 500, 2**18])
def test_scikit_image_gives_the_same(shape, chunk, monkeypatch):
    """Of unrelated, similar, dark and bright images."""
    monkeypatch.setattr("edm2.vae.similarity.CHUNK", chunk)
    a, other = random_images(*shape), random_images(*shape, seed=1)
    for b in (other, (a // 8 * 7 + other // 8), a // 100, 250 + a % 6):
        ours = structural_similarity(a, b)
        expected = [
            skimage.metrics.structural_similarity(x.numpy(), y.numpy(), channel_axis=0)
            for x, y in zip(a, b, strict=True)
        ]
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_equal_images_have_similarity_one():
    """Also where sums are largest."""
    white = torch.full((1, 3, 9, 9), 255, dtype=torch.uint8)
    for images in (random_images(2, 3, 9, 9), white):
        assert structural_similarity(images, images).tolist() == [1.0] * len(images)


def test_black_and_white_have_the_smallest_means_term():
    """Constant images: (2·0·255 + c1) / (0² + 255² + c1), with c1 = (0.01·255)²."""
    black, white = (torch.full((1, 1, 8, 8), v, dtype=torch.uint8) for v in (0, 255))
    expected = 0.01**2 / (1 + 0.01**2)
    assert structural_similarity(black, white).item() == pytest.approx(expected, rel=1e-12)


def test_checkerboards_out_of_phase_have_opposite_covariance():
    """49 pixels, 25 of one and 24 of the other value: sample covariance −v, means 125 and 130 of 255."""
    board = (torch.arange(49).reshape(1, 1, 7, 7) % 2 * 255).to(torch.uint8)
    mean, mirrored = 255 * 24 / 49, 255 * 25 / 49
    variance = 255**2 * 24 * 25 / 49 / 48
    c1, c2 = C1 / 49**2, C2 / 49 / 48
    expected = (2 * mean * mirrored + c1) / (mean**2 + mirrored**2 + c1)
    expected *= (-2 * variance + c2) / (2 * variance + c2)
    assert structural_similarity(board, 255 - board).item() == pytest.approx(expected, rel=1e-12)
