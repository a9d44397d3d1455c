"""Losses on reconstructions, and the balance of their gradients."""

import numpy as np
import pytest
import torch

from edm2.features.classifier import Classifier
from edm2.runtime.distributed import Ranks
from edm2.vae.losses import (
    image_losses,
    kl_loss,
    normalize_gradient,
    perceptual_distance,
    perceptual_loss,
    pooled_loss,
)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches of images in [-1, 1]."""
    return torch.rand(4, 3, 8, 8) * 2 - 1, torch.rand(4, 3, 8, 8) * 2 - 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("weight", [0.1, 3.0])
def test_gradient_has_norm_weight_and_its_direction(scale: float, weight: float) -> None:
    x, pull = torch.randn(4, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 8, 8)
    y = normalize_gradient(x, weight)
    assert torch.equal(y, x)
    (scale * pull * y).sum().backward()
    torch.testing.assert_close(x.grad, weight * pull / pull.norm(), rtol=1e-3, atol=1e-6)


def test_no_gradient_stays_none() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    (0 * normalize_gradient(x, 1.0)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_norm_is_that_of_the_joint_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, each with a mean over its half: their average is the joint batch's gradient."""
    pulls = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])]
    monkeypatch.setattr("edm2.vae.losses.ranks", lambda: Ranks(0, 2, 0))
    monkeypatch.setattr("edm2.vae.losses.all_reduce", lambda x: x * 0 + 25 + 144)
    found = []
    for pull in pulls:
        x = torch.zeros(2, requires_grad=True)
        (pull * normalize_gradient(x, 2.0)).sum().backward()
        found.append(x.grad / 2)  # data parallelism averages over ranks
    joint = torch.cat(pulls)  # but for a factor, which normalization removes
    torch.testing.assert_close(torch.cat(found), 2 * joint / 13)


def test_balance_at_the_image_does_not_depend_on_raw_scales() -> None:
    def gradient(scale: float) -> torch.Tensor:
        x = torch.linspace(-1, 1, 6, requires_grad=True)
        (scale * normalize_gradient(x, 1.0).square().sum()).backward()
        return x.grad

    torch.testing.assert_close(gradient(1.0), gradient(1e4))


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


def test_losses_of_weight_zero_are_left_out(tiny, backbone: Classifier, pair) -> None:
    params = tiny(perceptual=0.0, reconstruction=0.25, reconstruction_pool=4)
    ((name, (weight, loss)),) = image_losses(params.losses, backbone).items()
    assert (name, weight) == ("reconstruction", 0.25)
    assert torch.equal(loss(*pair), pooled_loss(4)(*pair))
    assert set(image_losses(tiny().losses, backbone)) == {"perceptual", "reconstruction"}


def test_kl_by_hand() -> None:
    mean = torch.tensor([[1.0, -3.0], [0.0, 2.0]])
    assert float(kl_loss(mean)) == 3.5  # (1 + 9 + 0 + 4) / 4
    assert kl_loss(mean.bfloat16()).dtype == torch.float32
