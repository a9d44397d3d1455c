"""Losses of reconstructions."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_autoencoder import FULL_VAE, vae_params
from torch.distributions import Normal, kl_divergence

from edm2.features.classifier import Classifier
from edm2.vae.discriminator import Discriminator, build_discriminator
from edm2.vae.losses import (
    ImageLosses,
    kl_loss,
    low_pass_loss,
    perceptual_distance,
    perceptual_loss,
    pooled_loss,
)

ALL = {"perceptual": 1.0, "adversarial": 1.0, "pooled": 0.5, "low_pass": 2.0, "mse": 3.0}


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


def test_channel_weights_multiply_squared_differences() -> None:
    """By hand: unit vectors (3, 4)/5 and (1, 0), then a slice with one channel and two pixels."""
    a = [torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.tensor([[[[2.0, -7.0]]]])]
    b = [torch.tensor([9.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([[[[5.0, 3.0]]]])]
    weights = [torch.tensor([10.0, 0.5]), torch.tensor([3.0])]
    first = 10 * (0.6 - 1) ** 2 + 0.5 * 0.8**2
    second = 3 * (0 + 2**2) / 2  # the same sign at one pixel, opposite signs at the other
    assert float(perceptual_distance(a, b, weights)) == pytest.approx(first + second)


def test_perceptual_loss_is_a_distance(backbone: Classifier, pair) -> None:
    loss, (a, b) = perceptual_loss(backbone), pair
    assert float(loss(a, a)) == 0
    assert float(loss(a, b)) > 0
    assert float(loss(a, b)) == pytest.approx(float(loss(b, a)), rel=1e-5)
    closer = a + 0.1 * (b - a)
    assert float(loss(a, closer)) < float(loss(a, b))


def test_the_perceptual_gradient_flows_to_the_reconstruction_only(
    backbone: Classifier, pair
) -> None:
    images, reconstruction = (x.requires_grad_() for x in pair)
    perceptual_loss(backbone)(images, reconstruction).backward()
    assert reconstruction.grad.abs().max() > 0
    assert images.grad is None
    assert all(p.grad is None for p in backbone.parameters())


def test_kl_by_hand() -> None:
    mean = torch.tensor([[1.0, -3.0], [0.0, 2.0]])
    assert float(kl_loss(mean, None)) == 3.5  # (1 + 9 + 0 + 4) / 4
    assert kl_loss(mean.bfloat16(), None).dtype == torch.float32


def test_mse_is_the_mean_squared_error_of_all_pixels(backbone: Classifier, pair) -> None:
    losses = image_losses(backbone, {"mse": 1.0})
    expected = ((pair[0] - pair[1]).double().numpy() ** 2).mean()
    assert float(losses(*pair, 8, False).values["mse"]) == pytest.approx(expected, rel=1e-5)


def test_kl_of_learned_variances_against_torch() -> None:
    """Twice the divergence: 0 for the prior itself; its gradient moves variances towards 1."""
    mean, std = torch.randn(5, 4), torch.rand(5, 4) + 0.1
    divergence = kl_divergence(Normal(mean.double(), std.double()), Normal(0.0, 1.0))
    assert float(kl_loss(mean, std)) == pytest.approx(float(2 * divergence.mean()), rel=1e-5)
    assert float(kl_loss(torch.zeros(3), torch.ones(3))) == 0
    std = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    kl_loss(torch.zeros(3), std).backward()
    assert std.grad.tolist() == pytest.approx([(1.0 - 4.0) / 3, 0, (4.0 - 1.0) / 3])


def image_losses(
    backbone: Classifier, weights: dict[str, float], **adversarial: Any
) -> ImageLosses:
    """Losses with these weights only; scores of the discriminator, if there is one, are not zero."""
    zeros = dict.fromkeys(ALL, 0.0)
    params = vae_params(
        FULL_VAE,
        {f"losses.{k}": v for k, v in {**zeros, **weights}.items()},
        {f"adversarial.{k}": v for k, v in adversarial.items()},
    )
    discriminator = None
    if weights.get("adversarial"):
        discriminator = Discriminator([len(w) for w in backbone.channel_weights], 4)
        with torch.no_grad():
            for parameter in discriminator.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return ImageLosses(params.losses, params.adversarial, backbone, discriminator)


def expected_losses(losses: ImageLosses, x: torch.Tensor, y: torch.Tensor, flip: bool):
    """Each loss from its own pass through the backbone, without its weight."""
    a, b = (x.flip(-1), y.flip(-1)) if flip else (x, y)
    backbone, discriminator = losses.backbone, losses.discriminator
    scores = [discriminator(backbone.slices(v)) for v in (a, b)]
    return {
        "perceptual": perceptual_loss(backbone)(a, b),
        "pooled": pooled_loss(2)(x, y),
        "low_pass": low_pass_loss(x, y),
        "mse": (x - y).square().mean(),
        "adversarial": torch.stack(
            [(a.detach() - b - 0.1).clamp(min=0).mean() for a, b in zip(*scores, strict=True)]
        ).mean(),
    }


@pytest.mark.parametrize("flip", [False, True])
def test_losses_and_gradients_of_the_shared_pass_equal_those_of_separate_passes(
    backbone, pair, flip
) -> None:
    losses = image_losses(backbone, ALL)
    output = losses(*pair, 8, flip)
    for name in ALL:
        y = pair[1].clone().requires_grad_()
        value = expected_losses(losses, pair[0], y, flip)[name]
        value.backward()
        assert float(output.values[name]) == pytest.approx(value.item(), rel=1e-4), name
        assert not output.values[name].requires_grad
        assert float(y.grad.abs().max()) > 0
        torch.testing.assert_close(output.gradients[name], y.grad, rtol=1e-3, atol=1e-7, msg=name)
    assert output.values.keys() == output.gradients.keys() == ALL.keys()


def test_only_losses_on_features_are_of_flipped_images(backbone: Classifier, pair) -> None:
    losses = image_losses(backbone, ALL)
    original, flipped = (losses(*pair, 8, flip).values for flip in (False, True))
    unchanged = {name for name in ALL if original[name] == flipped[name]}
    assert unchanged == {"pooled", "low_pass", "mse"}


@pytest.mark.parametrize(
    ("weights", "passes"),
    [
        (ALL, 2),
        ({"perceptual": 1.0}, 2),
        ({"adversarial": 1.0}, 2),
        ({"pooled": 1.0, "low_pass": 1.0, "mse": 1.0}, 0),
    ],
)
def test_losses_on_features_share_one_pass_of_images_and_one_of_reconstructions(
    backbone: Classifier, pair, monkeypatch: pytest.MonkeyPatch, weights, passes: int
) -> None:
    dtypes, slices = [], backbone.slices
    monkeypatch.setattr(backbone, "slices", lambda x: dtypes.append(x.dtype) or slices(x))
    output = image_losses(backbone, weights)(pair[0], pair[1].bfloat16(), 8, False)
    assert dtypes == [torch.float32] * passes
    tensors = (*output.values.values(), *output.gradients.values())
    assert {x.dtype for x in tensors} == {torch.float32}
    assert output.values.keys() == weights.keys()


def test_features_for_the_discriminator_are_those_of_flipped_images(
    backbone: Classifier, pair
) -> None:
    output = image_losses(backbone, {"adversarial": 1.0})(*pair, 8, True)
    features = (output.real_inputs, output.fake_inputs)
    for maps, images in zip(features, pair, strict=True):
        for a, b in zip(maps, backbone.slices(images.flip(-1)), strict=True):
            assert not a.requires_grad
            torch.testing.assert_close(a, b)


def test_the_adversarial_loss_starts_after_generator_nimg(backbone: Classifier, pair) -> None:
    """The discriminator gets features before that."""
    losses = image_losses(backbone, {"adversarial": 1.0, "mse": 1.0}, generator_nimg=16)
    for nimg, expected in ((8, {"mse"}), (16, {"mse"}), (24, {"mse", "adversarial"})):
        output = losses(*pair, nimg, False)
        assert set(output.values) == expected
        assert len(output.real_inputs) == len(output.fake_inputs) == 2


def test_what_the_threshold_leaves_over_is_not_scaled_up(backbone: Classifier, pair) -> None:
    """It is divided by the norm of the gradient without a threshold, which all patches have."""
    losses = image_losses(backbone, {"adversarial": 1.0}, generator_loss="threshold")
    output = losses(*pair, 8, False)
    reconstruction = pair[1].clone().requires_grad_()
    scores = losses.discriminator(backbone.slices(reconstruction))
    mean = torch.stack([x.mean() for x in scores]).mean()
    (expected,) = torch.autograd.grad(-mean, reconstruction)
    torch.testing.assert_close(output.normalizing["adversarial"], expected)
    equal = losses(pair[0], pair[0], 8, False)  # no patch is beyond the threshold
    assert not equal.gradients["adversarial"].any()
    assert equal.normalizing["adversarial"].any()
    hinge = image_losses(backbone, {"adversarial": 1.0}, generator_loss="hinge")(*pair, 8, False)
    assert torch.equal(hinge.normalizing["adversarial"], hinge.gradients["adversarial"])


@pytest.mark.parametrize("kind", ["threshold", "hinge", "bce"])
def test_params_choose_the_adversarial_loss(backbone, pair, kind: str) -> None:
    losses = image_losses(backbone, {"adversarial": 1.0}, generator_loss=kind)
    scores = [losses.discriminator(backbone.slices(x)) for x in pair]
    means = []
    for real, fake in zip(*scores, strict=True):
        r, f = real.detach().double(), fake.detach().double()
        expected = {
            "threshold": (r - f - 0.1).clamp(min=0),
            "hinge": -f,
            "bce": -torch.log(1 / (1 + torch.exp(-f))),
        }[kind]
        means.append(float(expected.mean()))
    value = losses(*pair, 8, False).values["adversarial"]
    assert float(value) == pytest.approx(sum(means) / len(means), rel=1e-4)


@pytest.mark.parametrize("kind", ["threshold", "hinge", "bce"])
def test_a_step_along_the_adversarial_gradient_raises_the_scores(backbone, pair, kind: str) -> None:
    losses = image_losses(backbone, {"adversarial": 1.0}, generator_loss=kind)
    gradient = losses(*pair, 8, False).gradients["adversarial"]
    moved = pair[1] - 0.01 * gradient / gradient.square().mean().sqrt()

    def score(x: torch.Tensor) -> float:
        scores = losses.discriminator(backbone.slices(x))
        return torch.stack([score.mean() for score in scores]).mean().item()

    assert gradient.any()
    assert score(moved) > score(pair[1])


def test_a_discriminator_with_its_own_backbone_takes_images(backbone: Classifier, pair) -> None:
    """Flipped ones, if the backbone gets those; features are those of its copy."""
    losses = image_losses(backbone, {"adversarial": 1.0})
    losses.discriminator = discriminator = build_discriminator(backbone, 4, trainable=True)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    output = losses(*pair, 8, True)
    for inputs, images in zip((output.real_inputs, output.fake_inputs), pair, strict=True):
        assert torch.equal(*inputs, images.flip(-1))
    reconstruction = pair[1].clone().requires_grad_()
    own = discriminator.backbone.slices(reconstruction.flip(-1))
    score = torch.stack([h(x).mean() for h, x in zip(discriminator.heads, own, strict=True)]).mean()
    (expected,) = torch.autograd.grad(-score, reconstruction)
    torch.testing.assert_close(output.normalizing["adversarial"], expected)


def test_losses_leave_no_gradients_behind(backbone: Classifier, pair) -> None:
    images, reconstruction = (x.requires_grad_() for x in pair)
    losses = image_losses(backbone, ALL)
    losses(images, reconstruction, 8, False)
    networks = (*backbone.parameters(), *losses.discriminator.parameters())
    assert all(x.grad is None for x in (images, reconstruction, *networks))
