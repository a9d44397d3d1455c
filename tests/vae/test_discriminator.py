"""The discriminator and its losses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_autoencoder import make_backbone
from torch import nn
from torch.nn import functional as F

from edm2.params import UserError
from edm2.runtime.distributed import Ranks
from edm2.vae.discriminator import (
    Discriminator,
    build_discriminator,
    discriminator_loss,
    generator_loss,
    lecam,
    mean_over_heads,
)


@pytest.fixture
def slices() -> list[torch.Tensor]:
    """Features of four images at three scales."""
    return [torch.randn(4, width, side, side) for width, side in ((8, 8), (16, 4), (32, 2))]


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of images and of reconstructions, some on each side of every threshold."""
    return 2 * torch.randn(6, 1, 3, 3), 2 * torch.randn(6, 1, 3, 3)


def perturbed(discriminator: Discriminator) -> Discriminator:
    """With noise added to its parameters, so that scores are not zero."""
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return discriminator


def test_scores_are_zero_at_initialization(slices: list[torch.Tensor]) -> None:
    scores = Discriminator([8, 16, 32], 4)(slices)
    for each, side in zip(scores, (8, 4, 2), strict=True):
        assert torch.equal(each, torch.zeros(4, 1, side, side))


def test_the_zero_weights_get_a_gradient(slices: list[torch.Tensor]) -> None:
    discriminator = Discriminator([8, 16, 32], 4)
    mean_over_heads(scores.mean() for scores in discriminator(slices)).backward()
    for head in discriminator.heads:
        assert head[-1].weight.grad.any()


def test_layers_of_the_heads() -> None:
    for head, width in zip(Discriminator([8, 16, 32], 4).heads, (8, 16, 32), strict=True):
        convs = [(x.in_channels, x.out_channels, x.kernel_size) for x in head[::3]]
        assert convs == [(width, 4, (1, 1)), (4, 4, (3, 3)), (4, 1, (3, 3))]
        for norm, activation in (head[1:3], head[4:6]):
            assert isinstance(norm, nn.GroupNorm)
            assert isinstance(activation, nn.SiLU)


def test_scores_are_in_fp32(slices: list[torch.Tensor]) -> None:
    discriminator = perturbed(Discriminator([8, 16, 32], 4))
    assert {x.dtype for x in discriminator([x.bfloat16() for x in slices])} == {torch.float32}


def test_scores_do_not_depend_on_other_images(slices: list[torch.Tensor]) -> None:
    discriminator = perturbed(Discriminator([8, 16, 32], 4))
    expected = [scores[:1] for scores in discriminator(slices)]
    torch.testing.assert_close(discriminator([x[:1] for x in slices]), expected)


def test_losses_of_the_discriminator_against_numpy(scores) -> None:
    real, fake = (x.double().numpy() for x in scores)
    hinge = (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2
    probability = [1 / (1 + np.exp(-x)) for x in (real, fake)]
    bce = -(np.log(probability[0]).mean() + np.log(1 - probability[1]).mean()) / 2
    assert float(discriminator_loss(*scores, "hinge")) == pytest.approx(hinge, rel=1e-5)
    assert float(discriminator_loss(*scores, "bce")) == pytest.approx(bce, rel=1e-5)


def test_losses_of_the_generator_against_numpy(scores) -> None:
    real, fake = (x.double().numpy() for x in scores)
    expected = {
        "threshold": np.maximum(0, real - fake - 0.1).mean(),
        "hinge": -fake.mean(),
        "bce": -np.log(1 / (1 + np.exp(-fake))).mean(),
    }
    for kind, value in expected.items():
        assert float(generator_loss(*scores, kind)) == pytest.approx(value, rel=1e-5), kind


def test_the_threshold_loss_acts_only_where_the_discriminator_leads_by_more_than_the_margin() -> (
    None
):
    """Patch by patch; scores of images get no gradient."""
    real = torch.tensor([0.0, 0.0, 0.0, 1.0], requires_grad=True)
    fake = torch.tensor([0.5, -0.05, -0.2, 0.0], requires_grad=True)
    loss = generator_loss(real, fake, "threshold")
    assert loss.item() == pytest.approx((0.1 + 0.9) / 4)
    loss.backward()
    assert fake.grad.tolist() == [0, 0, -0.25, -0.25]
    assert real.grad is None


def test_huge_scores_do_not_overflow() -> None:
    for kind in ("hinge", "bce"):
        assert float(discriminator_loss(torch.tensor(-1e4), torch.tensor(1e4), kind)) == (
            pytest.approx({"hinge": 10001, "bce": 10000}[kind])
        )
    assert float(generator_loss(torch.zeros(()), torch.tensor(-1e4), "bce")) == pytest.approx(1e4)


def test_lecam_penalizes_distances_from_the_mean_score_of_the_other_side(scores) -> None:
    anchors = torch.tensor([2.0, -3.0])  # of images, of reconstructions
    real, fake = (x.double().numpy() for x in scores)
    expected = ((real + 3) ** 2).mean() + ((fake - 2) ** 2).mean()
    assert float(lecam(*scores, anchors)) == pytest.approx(expected, rel=1e-5)
    assert float(lecam(torch.tensor(-3.0), torch.tensor(2.0), anchors)) == 0


def test_anchors_are_running_means(slices: list[torch.Tensor]) -> None:
    discriminator = Discriminator([8, 16, 32], 4)
    assert discriminator.anchors.tolist() == [0, 0]
    discriminator.update_anchors(torch.tensor([1.0, 3.0]), torch.tensor([-5.0]))
    torch.testing.assert_close(discriminator.anchors, torch.tensor([0.2, -0.5]))
    discriminator.update_anchors(torch.tensor([1.0]), torch.tensor([-1.0]))
    torch.testing.assert_close(discriminator.anchors, torch.tensor([0.28, -0.55]))
    other = Discriminator([8, 16, 32], 4)
    other.load_state_dict(discriminator.state_dict())
    assert torch.equal(other.anchors, discriminator.anchors)


def test_scores_that_are_not_finite_leave_the_anchors(slices: list[torch.Tensor]) -> None:
    """Those of images are finite, those of reconstructions are not."""
    discriminator = Discriminator([8, 16, 32], 4)
    discriminator.update_anchors(torch.tensor([2.0]), torch.tensor([-5.0]))
    discriminator.update_anchors(torch.tensor([2.0]), torch.tensor([torch.nan]))
    torch.testing.assert_close(discriminator.anchors, torch.tensor([0.38, -0.5]))


def test_anchors_are_means_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, with means 2 and 4 of images, -1 and -7 of reconstructions."""
    monkeypatch.setattr("edm2.vae.discriminator.ranks", lambda: Ranks(0, 2, 0))
    monkeypatch.setattr(
        "edm2.vae.discriminator.all_reduce", lambda means: means + torch.tensor([4.0, -7.0])
    )
    discriminator = Discriminator([8], 4)
    discriminator.update_anchors(torch.tensor([2.0]), torch.tensor([-1.0]))
    torch.testing.assert_close(discriminator.anchors, torch.tensor([0.3, -0.4]))


def test_a_head_against_its_formula() -> None:
    """With 3×3 kernels that pick the pixel on the left."""
    discriminator = perturbed(Discriminator([8], 4))
    first, norm, _, second, norm2, _, last = discriminator.heads[0]
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        for conv in (second, last):
            kernel = conv.weight[..., 1, 1].clone()
            conv.weight.zero_()
            conv.weight[..., 1, 0] = kernel
        expected = F.silu(
            norm(torch.einsum("oc,nchw->nohw", first.weight[..., 0, 0], x) + bias(first))
        )
        for conv, activation in ((second, lambda y: F.silu(norm2(y))), (last, lambda y: y)):
            mixed = torch.einsum("oc,nchw->nohw", conv.weight[..., 1, 0], expected)
            expected = activation(F.pad(mixed, (1, 0))[..., :5] + bias(conv))
    torch.testing.assert_close(discriminator([x]), [expected])


def bias(conv: nn.Conv2d) -> torch.Tensor:
    return conv.bias[:, None, None]


def test_of_a_copy_of_the_backbone_all_is_trained_that_features_depend_on() -> None:
    """A classifier's layers after its features are not; the backbone itself stays frozen."""
    backbone = make_backbone()
    discriminator = build_discriminator(backbone, 4, trainable=True)
    trained = {name for name, p in discriminator.backbone.named_parameters() if p.requires_grad}
    expected = {name for name, _ in backbone.named_parameters() if name.startswith("stages")}
    assert trained == expected
    assert not any(p.requires_grad for p in backbone.parameters())
    images = torch.randn(2, 3, 16, 16)
    perturbed(discriminator)
    maps = discriminator.backbone.slices(images)
    expected_scores = [h(x) for h, x in zip(discriminator.heads, maps, strict=True)]
    torch.testing.assert_close(discriminator([images]), expected_scores)


def test_a_backbone_without_parameters_cannot_be_trained() -> None:
    backbone = SimpleNamespace(name="plugged", channel_weights=[torch.ones(8)], slices=None)
    assert build_discriminator(backbone, 4, trainable=False).backbone is None
    with pytest.raises(UserError, match=r"trainable_backbone.*plugged"):
        build_discriminator(backbone, 4, trainable=True)
