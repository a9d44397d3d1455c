"""Losses on reconstructions."""

import numpy as np
import pytest
import torch

from edm2.features.classifier import Classifier
from edm2.vae.losses import (
    kl_loss,
    perceptual_distance,
    perceptual_loss,
    pooled_loss,
)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches of images in [-1, 1]."""
    return torch.rand(4, 3, 8, 8) * 2 - 1, torch.rand(4, 3, 8, 8) * 2 - 1


@pytest.mark.parametrize("pool", [1, 2, 8])
def test_pooled_loss_against_numpy(pair, pool: int) -> None:
    def pooled(x: torch.Tensor) -> np.ndarray:
        n = 8 // pool
        return x.double().numpy().reshape(4, 3, n, pool, n, pool).mean(axis=(3, 5))

    expected = ((pooled(pair[0]) - pooled(pair[1])) ** 2).mean()
    assert float(pooled_loss(pool)(*pair)) == pytest.approx(expected, rel=1e-4)


def test_pooled_loss_is_blind_to_detail() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    detail = 0.3 * board.expand(1, 3, 8, 8)
    image = torch.rand(1, 3, 8, 8)
    assert float(pooled_loss(2)(image, image + detail)) == pytest.approx(0, abs=1e-12)
    assert float(pooled_loss(1)(image, image + detail)) == pytest.approx(0.09, rel=1e-4)


def test_perceptual_loss_against_numpy(backbone: Classifier, pair) -> None:
    expected = 0.0
    for a, b in zip(*(backbone.slices(x) for x in pair), strict=True):
        a, b = ((x / x.norm(dim=1, keepdim=True)).double().numpy() for x in (a, b))
        expected += ((a - b) ** 2).sum(axis=1).mean()
    assert float(perceptual_loss(backbone)(*pair)) == pytest.approx(expected, rel=1e-4)


def test_channels_count_by_their_weights() -> None:
    """Unit vectors by hand: (3, 4)/5 against (1, 0), then a slice of a single channel."""
    a = [torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.tensor([[[[2.0, -7.0]]]])]
    b = [torch.tensor([9.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([[[[5.0, 3.0]]]])]
    weights = [torch.tensor([10.0, 0.5]), torch.tensor([3.0])]
    first = 10 * (0.6 - 1) ** 2 + 0.5 * 0.8**2
    second = 3 * (0 + 2**2) / 2  # signs alike at one pixel, unlike at the other
    assert float(perceptual_distance(a, b, weights)) == pytest.approx(first + second)


def test_perceptual_loss_is_a_distance(backbone: Classifier, pair) -> None:
    loss, (a, b) = perceptual_loss(backbone), pair
    assert float(loss(a, a)) == 0
    assert float(loss(a, b)) > 0
    assert float(loss(a, b)) == pytest.approx(float(loss(b, a)), rel=1e-5)
    nearer = a + 0.1 * (b - a)
    assert float(loss(a, nearer)) < float(loss(a, b))


def test_gradient_reaches_the_reconstruction_alone(backbone: Classifier, pair) -> None:
    images, reconstruction = (x.requires_grad_() for x in pair)
    perceptual_loss(backbone)(images, reconstruction).backward()
    assert reconstruction.grad.abs().max() > 0
    assert images.grad is None
    assert all(p.grad is None for p in backbone.parameters())


def test_kl_by_hand() -> None:
    mean = torch.tensor([[1.0, -3.0], [0.0, 2.0]])
    assert float(kl_loss(mean, None)) == 3.5  # (1 + 9 + 0 + 4) / 4
    assert kl_loss(mean.bfloat16(), None).dtype == torch.float32
