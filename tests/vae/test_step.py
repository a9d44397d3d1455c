"""One step of the training: what the losses ask of the batch, and who learns from it."""

import math
from typing import Any

import pytest
import torch
from tiny_autoencoder import (
    BATCH,
    EVERYTHING,
    TINY,
    copies,
    floats,
    images_of,
    make_backbone,
    make_batch,
    make_task,
    same,
    steady,
    vae_params,
)
from torch.distributions import Normal, kl_divergence

from edm2.vae.losses import perceptual_loss, pooled_loss
from edm2.vae.training import Batch, VaeTask


def pulled(
    task: VaeTask, batch: Batch, nimg: int = BATCH
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Reconstructions, the gradient that goes back from them, and what is logged."""
    found, pulls = [], []

    def hook(_: Any, __: Any, out: torch.Tensor) -> None:
        if out.requires_grad:
            found.append(out.detach())
            out.register_hook(pulls.append)

    handle = task.network.decoder.register_forward_hook(hook)
    row = task.step(batch, nimg)
    handle.remove()
    return torch.cat(found), torch.cat(pulls), row


SINGLE = dict.fromkeys(
    ("losses.perceptual", "losses.adversarial", "losses.pooled", "losses.low_pass"), 0.0
)


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("weight", [0.1, 30.0])
def test_a_loss_pulls_at_the_batch_with_its_weight(microbatch: int | None, weight: float) -> None:
    """Of squared errors, in the direction of the error; its norm before that is logged."""
    params = vae_params(TINY, SINGLE, losses__mse=weight, microbatch=microbatch)
    batch = make_batch(params)
    y, pull, row = pulled(make_task(params), batch)
    error = y - images_of(batch)
    torch.testing.assert_close(pull, weight * error / error.norm(), rtol=1e-4, atol=1e-6)
    norm = 2 * error.norm() / error.numel()
    assert float(row["gradient/mse"]) == pytest.approx(float(norm), rel=1e-4)
    for name in ("train/mse",):
        assert float(row[name]) == pytest.approx(float(error.square().mean()), rel=1e-4)


@pytest.mark.parametrize("microbatch", [None, 4])
@pytest.mark.parametrize("normalization", [True, False])
def test_losses_pull_together_by_their_weights(microbatch: int | None, normalization: bool) -> None:
    """Σ wₖ gₖ/‖gₖ‖, or Σ wₖ gₖ, where gₖ is of the mean over the whole batch."""
    weights = {"perceptual": 0.5, "pooled": 2.0, "mse": 0.25}
    params = vae_params(
        TINY,
        {f"losses.{k}": v for k, v in weights.items()},
        microbatch=microbatch,
        losses__gradient_normalization=normalization,
    )
    batch, task = make_batch(params), make_task(params)
    y, pull, row = pulled(task, batch)
    x, y, expected = images_of(batch), y.requires_grad_(), torch.zeros_like(y)
    values = {
        "perceptual": perceptual_loss(make_backbone())(x, y),
        "pooled": pooled_loss(params.losses.pool)(x, y),
        "mse": (x - y).square().mean(),
    }
    for name, value in values.items():
        (gradient,) = torch.autograd.grad(value, y)
        expected += weights[name] * gradient / (gradient.norm() if normalization else 1)
        assert float(row[f"gradient/{name}"]) == pytest.approx(float(gradient.norm()), rel=1e-3)
        assert float(row[f"train/{name}"]) == pytest.approx(value.item(), rel=1e-4)
    torch.testing.assert_close(pull, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def assert_alike(found: VaeTask, expected: VaeTask) -> None:
    """Gradients of autoencoder and discriminator, and anchors."""
    for a, b in (
        (found.network, expected.network),
        (found.critic.discriminator, expected.critic.discriminator),
    ):
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            scale = float(q.grad.abs().max())
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3 * scale, msg=name)
    torch.testing.assert_close(
        found.critic.discriminator.anchors,
        expected.critic.discriminator.anchors,
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("microbatch", [1, 4])
def test_microbatches_give_the_step_of_the_batch(microbatch: int) -> None:
    """With everything on, in the first step and in the second, one of which has a crop."""
    tasks = [
        steady(make_task(vae_params(EVERYTHING, microbatch=size))) for size in (None, microbatch)
    ]
    for step in (1, 2):
        batch = make_batch(tasks[0].params, step)
        expected, found = (floats(task.step(batch, BATCH * step)) for task in tasks)
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-6)
        assert_alike(tasks[1], tasks[0])
    assert expected["gradient/adversarial"] > 0


def test_what_is_logged_of_everything() -> None:
    """Names are those of the docs."""
    params = vae_params(EVERYTHING)
    row = make_task(params).step(make_batch(params), BATCH)
    losses = ("perceptual", "adversarial", "pooled", "low_pass", "mse")
    critic = ("loss", "images", "reconstructions", "accuracy", "nonfinite_gradients")
    assert set(row) == {
        *(f"{kind}/{name}" for kind in ("train", "gradient") for name in losses),
        *(f"discriminator/{name}" for name in critic),
        "train/kl",
        "train/mse",
        "train/nonfinite_gradients",
    }
    assert all(math.isfinite(value) for value in floats(row).values())


def test_kl_of_a_learned_variance_is_logged_and_pulls() -> None:
    """Its gradient is what its weight adds to the others'."""
    learned = {**TINY, "variance": "learned", "latent_channels": 4}
    batch, gradients = make_batch(vae_params(learned)), []
    for weight in (0.3, 0.0):
        task = make_task(vae_params(learned, losses__kl=weight))
        row = task.step(batch, BATCH)
        gradients.append(task.network.encoder[-1].weight.grad)
    network = make_task(vae_params(learned)).network
    mean, std = network.encode(images_of(batch))
    divergence = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).mean()
    assert float(row["train/kl"]) == pytest.approx(2 * divergence.item(), rel=1e-4)
    (0.3 * 2 * divergence).backward()
    expected = network.encoder[-1].weight.grad
    torch.testing.assert_close(gradients[0] - gradients[1], expected, rtol=1e-3, atol=1e-5)


def test_autoencoder_and_discriminator_move_and_the_backbone_does_not() -> None:
    params = vae_params(EVERYTHING)
    task = make_task(params)
    parts = (task.network, task.critic.discriminator, task.losses.backbone)
    before = [copies(part.parameters()) for part in parts]
    for step in (1, 2):  # the discriminator's first layers learn when its last are not zero
        task.step(make_batch(params, step), BATCH * step)
    moved = [not any(same(part.parameters(), old)) for part, old in zip(parts, before, strict=True)]
    assert moved == [True, True, False]
    assert all(same(task.losses.backbone.parameters(), before[2]))
    assert all(p.grad is None for p in task.losses.backbone.parameters())


def test_the_autoencoders_step_does_not_touch_the_discriminator(monkeypatch) -> None:
    params = vae_params(EVERYTHING)
    task = make_task(params)
    task.step(make_batch(params, 1), BATCH)
    discriminator = task.critic.discriminator
    task.critic.optimizer.zero_grad()
    before = copies(discriminator.state_dict().values())
    monkeypatch.setattr(task.critic, "step", lambda seen, nimg: {})
    row = task.step(make_batch(params, 2), 2 * BATCH)
    assert float(row["gradient/adversarial"]) > 0
    assert all(same(discriminator.state_dict().values(), before))
    assert all(p.grad is None for p in discriminator.parameters())


def test_the_discriminators_step_does_not_touch_the_autoencoder() -> None:
    """Though it stands in the same step: the network goes as if there were none."""
    moved = []
    for start in (0, 16):
        params = vae_params(
            EVERYTHING, adversarial__discriminator_nimg=start, adversarial__generator_nimg=16
        )
        task = make_task(params)
        for step in (1, 2):
            task.step(make_batch(params, step), BATCH * step)
        moved.append(copies(task.network.parameters()))
    assert all(same(*moved))


def test_discriminator_and_its_loss_enter_in_their_times() -> None:
    params = vae_params(
        EVERYTHING, adversarial__discriminator_nimg=8, adversarial__generator_nimg=24
    )
    task, found = make_task(params), []
    for step in range(1, 6):
        before = copies(task.critic.discriminator.parameters())
        row = task.step(make_batch(params, step), BATCH * step)
        moved = not all(same(task.critic.discriminator.parameters(), before))
        found.append(("discriminator/loss" in row, moved, "train/adversarial" in row))
    assert found == [
        (False,) * 3,
        (True, True, False),
        (True, True, False),
        (True,) * 3,
        (True,) * 3,
    ]


def test_nobody_is_trained_to_tell_where_its_loss_has_no_weight() -> None:
    params = vae_params(EVERYTHING, losses__adversarial=0.0)
    task = make_task(params)
    row = task.step(make_batch(params), BATCH)
    assert task.critic is None
    assert not any("discriminator" in name or "adversarial" in name for name in row)
    assert set(task.state_dict()) == {"network", "optimizer"}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_step_has_one_pass_of_each_side_through_the_backbone(monkeypatch, weight: float) -> None:
    """Perceptual loss, adversarial loss and the discriminator's own step share it."""
    params = vae_params(EVERYTHING, losses__perceptual=weight)
    task = make_task(params)
    backbone, seen = task.losses.backbone, []
    slices = backbone.slices
    monkeypatch.setattr(backbone, "slices", lambda x: seen.append(len(x)) or slices(x))
    task.step(make_batch(params), BATCH)
    assert seen == [BATCH] * 2


def test_the_backbone_sees_flips_as_often_as_asked() -> None:
    """One draw for a batch, of seed and time; four standard deviations."""
    for probability in (0.0, 0.5, 1.0):
        task = make_task(vae_params(EVERYTHING, losses__flip=probability))
        flips = [task._flip(nimg) for nimg in range(8, 3208, 8)]
        assert (
            abs(sum(flips) / 400 - probability)
            <= 4 * (probability * (1 - probability) / 400) ** 0.5
        )
    assert flips == [True] * 400
    one, other = (make_task(vae_params(EVERYTHING), seed=seed) for seed in (0, 1))
    assert [one._flip(n) for n in range(50)] != [other._flip(n) for n in range(50)]


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("normalization", [True, False])
def test_gradients_of_float16_do_not_vanish(microbatch: int | None, normalization: bool) -> None:
    """However weak the losses are, below the least number of that type: as in 32 bits."""
    params = vae_params(
        TINY,
        SINGLE,
        losses__mse=1e-9,
        losses__kl=1e-9,
        microbatch=microbatch,
        losses__gradient_normalization=normalization,
    )
    batch, found = make_batch(params), []
    for dtype in (torch.float32, torch.float16):
        task = make_task(params, dtype)
        assert float(task.step(batch, BATCH)["train/nonfinite_gradients"]) == 0
        gradients = [p.grad.flatten() for p in task.network.parameters() if p.grad is not None]
        found.append(torch.cat(gradients).double())
    assert found[0].norm() > 0
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_in_16_bits_losses_are_in_32() -> None:
    """The network's activations are of bfloat16; what is asked of them is not, nor its gradients."""
    params = vae_params(EVERYTHING, equivariance__crop=0.0)
    batch, seen = make_batch(params), []
    task = make_task(params, torch.bfloat16)
    backbone, slices, losses = task.losses.backbone, task.losses.backbone.slices, task.losses
    task.network.decoder.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    backbone.slices = lambda x: [seen.append(y.dtype) or y for y in slices(x)]
    kept = []
    task.losses = lambda *given: kept.append(losses(*given)) or kept[-1]
    row = floats(task.step(batch, BATCH))
    assert seen == [torch.bfloat16] + [torch.float32] * 4
    tensors = (*kept[0].values.values(), *kept[0].gradients.values())
    assert {t.dtype for t in tensors} == {torch.float32}
    for p in task.network.parameters():
        assert (p.dtype, p.grad.dtype) == (torch.float32, torch.float32)
    expected = floats(make_task(params).step(batch, BATCH))
    for name in (
        "train/perceptual",
        "train/kl",
        "gradient/mse",
        "gradient/pooled",
    ):
        assert row[name] == pytest.approx(expected[name], rel=0.05), name
        assert row[name] != expected[name]


def test_gradients_that_are_no_numbers_are_counted_and_left_out() -> None:
    params = vae_params(EVERYTHING)
    task, batch = make_task(params), make_batch(params)
    batch[1][0, 0, 0, 0] = torch.inf
    row = task.step(batch, BATCH)
    assert int(row["train/nonfinite_gradients"]) > 0
    assert all(p.isfinite().all() for p in task.network.parameters())
