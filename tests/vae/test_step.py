"""One training step: the gradient at the reconstructions, the updates, and the metrics."""

import math
from typing import Any

import pytest
import torch
from tiny_autoencoder import (
    BATCH,
    FULL_VAE,
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

pytestmark = pytest.mark.slow


def observed_step(task: VaeTask, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Reconstructions, the gradient that is backpropagated from them, and the metrics of a step."""
    reconstructions, gradients = [], []

    def hook(_: Any, __: Any, out: torch.Tensor) -> None:
        if out.requires_grad:
            reconstructions.append(out.detach())
            out.register_hook(gradients.append)

    handle = task.network.decoder.register_forward_hook(hook)
    metrics = task.step(batch, BATCH)
    handle.remove()
    return torch.cat(reconstructions), torch.cat(gradients), metrics


ONLY_MSE = dict.fromkeys(
    ("losses.perceptual", "losses.adversarial", "losses.pooled", "losses.low_pass"), 0.0
)


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("weight", [0.1, 30.0])
def test_the_gradient_of_a_single_loss_has_its_weight_as_norm(
    microbatch: int | None, weight: float
) -> None:
    """Of each image's loss, of which the batch's is the mean: for mse it has the direction of the error.

    The norm before normalization is logged.
    """
    params = vae_params(TINY, ONLY_MSE, losses__mse=weight, microbatch=microbatch)
    batch = make_batch(params)
    y, gradient, metrics = observed_step(make_task(params), batch)
    error = y - images_of(batch)
    typical = error.flatten(1).norm(dim=1).square().mean().sqrt()
    expected = weight * error / typical / len(error)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    norm = 2 * typical / error[0].numel()
    assert float(metrics["gradient/mse"]) == pytest.approx(float(norm), rel=1e-4)
    assert float(metrics["train/mse"]) == pytest.approx(float(error.square().mean()), rel=1e-4)


@pytest.mark.parametrize("microbatch", [None, 4])
@pytest.mark.parametrize("normalization", [True, False])
def test_gradients_of_losses_are_combined_by_their_weights(
    microbatch: int | None, normalization: bool
) -> None:
    """Means over images of Σ wₖ gₖ/‖gₖ‖, or of Σ wₖ gₖ, where gₖ is the gradient of an image's loss."""
    weights = {"perceptual": 0.5, "pooled": 2.0, "mse": 0.25}
    params = vae_params(
        TINY,
        {f"losses.{k}": v for k, v in weights.items()},
        microbatch=microbatch,
        losses__gradient_normalization=normalization,
    )
    batch, task = make_batch(params), make_task(params)
    y, combined, metrics = observed_step(task, batch)
    x, y, expected = images_of(batch), y.requires_grad_(), torch.zeros_like(y)
    values = {
        "perceptual": perceptual_loss(make_backbone())(x, y),
        "pooled": pooled_loss(params.losses.pool)(x, y),
        "mse": (x - y).square().mean(),
    }
    for name, value in values.items():
        (gradient,) = torch.autograd.grad(value, y)
        norm = (len(y) * gradient).flatten(1).norm(dim=1).square().mean().sqrt()
        expected += weights[name] * gradient / (norm if normalization else 1)
        assert float(metrics[f"gradient/{name}"]) == pytest.approx(float(norm), rel=1e-3)
        assert float(metrics[f"train/{name}"]) == pytest.approx(value.item(), rel=1e-4)
    atol = 1e-3 * float(expected.abs().max())
    torch.testing.assert_close(combined, expected, rtol=1e-3, atol=atol)


def assert_close_tasks(actual: VaeTask, expected: VaeTask) -> None:
    """Compare gradients of network and discriminator, and anchors."""
    discriminators = [task.discriminator_task.discriminator for task in (actual, expected)]
    for a, b in ((actual.network, expected.network), discriminators):
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            scale = float(q.grad.abs().max())
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3 * scale, msg=name)
    anchors = (discriminator.anchors for discriminator in discriminators)
    torch.testing.assert_close(*anchors, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("microbatch", [1, 4])
def test_microbatches_give_the_step_of_the_batch(microbatch: int) -> None:
    """With all options on, in two steps, one of which has a crop."""
    whole, split = (
        steady(make_task(vae_params(FULL_VAE, microbatch=size))) for size in (None, microbatch)
    )
    for step in (1, 2):
        batch = make_batch(whole.params, step)
        expected, metrics = (floats(task.step(batch, BATCH * step)) for task in (whole, split))
        assert metrics == pytest.approx(expected, rel=2e-3, abs=1e-6)
        assert_close_tasks(split, whole)
    assert expected["gradient/adversarial"] > 0


def test_metrics_with_all_options_on() -> None:
    params = vae_params(FULL_VAE)
    metrics = make_task(params).step(make_batch(params), BATCH)
    losses = ("perceptual", "adversarial", "pooled", "low_pass", "mse")
    discriminator = ("loss", "images", "reconstructions", "accuracy", "nonfinite_gradients")
    assert set(metrics) == {
        *(f"{kind}/{name}" for kind in ("train", "gradient") for name in losses),
        *(f"discriminator/{name}" for name in discriminator),
        "train/kl",
        "train/mse",
        "train/nonfinite_gradients",
    }
    assert all(math.isfinite(value) for value in floats(metrics).values())


def test_the_kl_loss_of_a_learned_variance_is_logged_and_adds_its_gradient() -> None:
    learned = {**TINY, "variance": "learned", "latent_channels": 4}
    batch, gradients = make_batch(vae_params(learned)), []
    for weight in (0.3, 0.0):
        task = make_task(vae_params(learned, losses__kl=weight))
        metrics = task.step(batch, BATCH)
        gradients.append(task.network.encoder[-1].weight.grad)
    network = make_task(vae_params(learned)).network
    mean, std = network.encode(images_of(batch))
    divergence = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).mean()
    assert float(metrics["train/kl"]) == pytest.approx(2 * divergence.item(), rel=1e-4)
    (0.3 * 2 * divergence).backward()
    expected = network.encoder[-1].weight.grad
    torch.testing.assert_close(gradients[0] - gradients[1], expected, rtol=1e-3, atol=1e-5)


def test_network_and_discriminator_are_trained_and_the_backbone_is_frozen() -> None:
    params = vae_params(FULL_VAE)
    task = make_task(params)
    backbone = task.losses.backbone
    trained = (task.network, task.discriminator_task.discriminator)
    before, frozen = (
        [copies(module.parameters()) for module in trained],
        copies(backbone.parameters()),
    )
    for step in (1, 2):  # the discriminator's first layers learn once its last ones are not zero
        task.step(make_batch(params, step), BATCH * step)
    for module, old in zip(trained, before, strict=True):
        assert not any(same(module.parameters(), old))
    assert all(same(backbone.parameters(), frozen))
    assert all(p.grad is None for p in backbone.parameters())


def test_the_step_of_the_network_does_not_change_the_discriminator(monkeypatch) -> None:
    params = vae_params(FULL_VAE)
    task = make_task(params)
    task.step(make_batch(params, 1), BATCH)
    discriminator = task.discriminator_task.discriminator
    task.discriminator_task.optimizer.zero_grad()
    before = copies(discriminator.state_dict().values())
    monkeypatch.setattr(task.discriminator_task, "step", lambda outputs, nimg: {})
    metrics = task.step(make_batch(params, 2), 2 * BATCH)
    assert float(metrics["gradient/adversarial"]) > 0
    assert all(same(discriminator.state_dict().values(), before))
    assert all(p.grad is None for p in discriminator.parameters())


def test_the_step_of_the_discriminator_does_not_change_the_network() -> None:
    """The network is the same whether the discriminator is trained or not."""
    networks = []
    for start in (0, 16):
        params = vae_params(
            FULL_VAE, adversarial__discriminator_nimg=start, adversarial__generator_nimg=16
        )
        task = make_task(params)
        for step in (1, 2):
            task.step(make_batch(params, step), BATCH * step)
        networks.append(copies(task.network.parameters()))
    assert all(same(*networks))


def test_the_discriminator_and_the_adversarial_loss_start_at_their_times() -> None:
    params = vae_params(FULL_VAE, adversarial__discriminator_nimg=8, adversarial__generator_nimg=24)
    task, rows = make_task(params), []
    discriminator = task.discriminator_task.discriminator
    for step in range(1, 6):
        before = copies(discriminator.parameters())
        metrics = task.step(make_batch(params, step), BATCH * step)
        trained = not all(same(discriminator.parameters(), before))
        rows.append(("discriminator/loss" in metrics, trained, "train/adversarial" in metrics))
    assert rows == [
        (False,) * 3,
        (True, True, False),
        (True, True, False),
        (True,) * 3,
        (True,) * 3,
    ]


def test_without_a_weight_of_the_adversarial_loss_there_is_no_discriminator() -> None:
    params = vae_params(FULL_VAE, losses__adversarial=0.0)
    task = make_task(params)
    metrics = task.step(make_batch(params), BATCH)
    assert task.discriminator_task is None
    assert not any("discriminator" in name or "adversarial" in name for name in metrics)
    assert set(task.state_dict()) == {"network", "optimizer"}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_images_and_reconstructions_pass_the_backbone_once_per_step(
    monkeypatch, weight: float
) -> None:
    """Perceptual loss, adversarial loss and the discriminator's step share the features."""
    params = vae_params(FULL_VAE, losses__perceptual=weight)
    task = make_task(params)
    backbone, batch_sizes = task.losses.backbone, []
    slices = backbone.slices
    monkeypatch.setattr(backbone, "slices", lambda x: batch_sizes.append(len(x)) or slices(x))
    task.step(make_batch(params), BATCH)
    assert batch_sizes == [BATCH] * 2


def test_flips_before_the_backbone_have_the_probability_of_params() -> None:
    """One draw per batch, from seed and time, within four standard deviations."""
    for probability in (0.0, 0.5, 1.0):
        task = make_task(vae_params(FULL_VAE, losses__flip=probability))
        flips = [task._flip(nimg) for nimg in range(8, 3208, 8)]
        std = (probability * (1 - probability) / 400) ** 0.5
        assert abs(sum(flips) / 400 - probability) <= 4 * std
    assert flips == [True] * 400
    one, other = (make_task(vae_params(FULL_VAE), seed=seed) for seed in (0, 1))
    assert [one._flip(n) for n in range(50)] != [other._flip(n) for n in range(50)]


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("normalization", [True, False])
def test_gradients_of_float16_do_not_underflow(microbatch: int | None, normalization: bool) -> None:
    """With weights below the smallest number of float16, gradients are those of float32."""
    params = vae_params(
        TINY,
        ONLY_MSE,
        losses__mse=1e-9,
        losses__kl=1e-9,
        microbatch=microbatch,
        losses__gradient_normalization=normalization,
    )
    batch, gradients = make_batch(params), []
    for dtype in (torch.float32, torch.float16):
        task = make_task(params, dtype)
        assert float(task.step(batch, BATCH)["train/nonfinite_gradients"]) == 0
        flat = [p.grad.flatten() for p in task.network.parameters() if p.grad is not None]
        gradients.append(torch.cat(flat).double())
    single, half = gradients
    assert single.norm() > 0
    assert (half - single).norm() < 0.05 * single.norm()


def test_losses_and_their_gradients_are_in_float32_if_activations_are_in_bfloat16() -> None:
    params = vae_params(FULL_VAE, equivariance__crop=0.0)
    batch, dtypes = make_batch(params), []
    task = make_task(params, torch.bfloat16)
    backbone, slices, losses = task.losses.backbone, task.losses.backbone.slices, task.losses
    task.network.decoder.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    backbone.slices = lambda x: [dtypes.append(y.dtype) or y for y in slices(x)]
    outputs = []
    task.losses = lambda *args: outputs.append(losses(*args)) or outputs[-1]
    metrics = floats(task.step(batch, BATCH))
    assert dtypes == [torch.bfloat16] + [torch.float32] * 4
    tensors = (*outputs[0].values.values(), *outputs[0].gradients.values())
    assert {t.dtype for t in tensors} == {torch.float32}
    for p in task.network.parameters():
        assert (p.dtype, p.grad.dtype) == (torch.float32, torch.float32)
    expected = floats(make_task(params).step(batch, BATCH))
    for name in ("train/perceptual", "train/kl", "gradient/mse", "gradient/pooled"):
        assert metrics[name] == pytest.approx(expected[name], rel=0.05), name
        assert metrics[name] != expected[name]


def test_the_balance_of_losses_is_that_of_any_batch() -> None:
    """Of 2 and of 128 images that are all the same: all losses, with the pull of KL, have one gradient."""
    gradients, (images, noise) = [], make_batch(vae_params(TINY))
    for batch in (2, 128):
        task = make_task(vae_params(TINY, batch=batch, losses__kl=1.0, losses__mse=0.5))
        task.step(
            (images[:1].expand(batch, -1, -1, -1), noise[:1].expand(batch, -1, -1, -1)), batch
        )
        gradients.append(torch.cat([p.grad.flatten() for p in task.network.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[0].norm()))


def test_nonfinite_gradients_are_counted_and_skipped() -> None:
    params = vae_params(FULL_VAE)
    task, batch = make_task(params), make_batch(params)
    batch[1][0, 0, 0, 0] = torch.inf
    metrics = task.step(batch, BATCH)
    assert int(metrics["train/nonfinite_gradients"]) > 0
    discriminator = task.discriminator_task.discriminator
    for module in (task.network, discriminator):
        assert all(x.isfinite().all() for x in module.state_dict().values())
    metrics = floats(task.step(make_batch(params, 1), 2 * BATCH))
    assert all(map(math.isfinite, metrics.values()))


def test_a_diverged_network_in_float16_has_metrics_that_say_so() -> None:
    """Without gradient normalization the scale of gradients depends on norms, which are NaN."""
    params = vae_params(TINY, losses__gradient_normalization=False)
    task = make_task(params, torch.float16)
    with torch.no_grad():
        task.network.decoder[0].weight.fill_(torch.nan)
    metrics = floats(task.step(make_batch(params), BATCH))
    assert math.isnan(metrics["train/perceptual"])
    assert metrics["train/nonfinite_gradients"] > 0
