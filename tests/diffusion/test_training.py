"""Training steps of the denoiser."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from tiny_denoiser import BATCH, diffusion_params, make_batch, make_task

from edm2.data.normalization import Normalization
from edm2.diffusion.layers import Layer
from edm2.diffusion.training import batches, bin_names
from edm2.params.configs import CONFIGS
from edm2.params.resolution import resolve
from edm2.runtime.checkpoint import load_tree, save_tree


def gradients(task):
    return {name: p.grad for name, p in task.denoiser.named_parameters()}


@pytest.mark.parametrize("config", CONFIGS)
def test_microbatches_give_the_gradients_of_the_whole_batch(config):
    """Also where the last part is smaller (8 = 3 + 3 + 2)."""
    whole, parts = make_task(config, dropout=0.0), make_task(config, dropout=0.0, microbatch=3)
    metrics = [task.step(make_batch(), BATCH) for task in (whole, parts)]
    for name, gradient in gradients(whole).items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-3, atol=1e-4 * scale)
    for key in ("train/loss", "train/weighted_mse"):
        assert float(metrics[1][key]) == pytest.approx(float(metrics[0][key]), rel=1e-4)


@pytest.mark.parametrize("config", ["A", "B", "G"])
def test_gradients_are_of_the_scaled_sum_over_pixels(config):
    """∂/∂θ of loss_scaling/N · Σ_images Σ_pixels (λ/e^u·(D−y)² + u), written out."""
    task = make_task(config, dropout=0.0)
    reference = copy.deepcopy(task.denoiser)
    reference.force_norms()
    data, noise, ln_sigma, labels = make_batch()
    s = ln_sigma.exp()[:, None, None, None]
    error = reference(data + s * noise, ln_sigma.exp(), labels) - data
    u = reference.uncertainty(ln_sigma.exp())[:, None, None, None]
    pixelwise = (s**2 + 0.25) / (0.5 * s) ** 2 / u.exp() * error**2 + u
    scaling = {"A": 100, "B": 100, "G": 1}[config]
    (pixelwise.sum() * scaling / BATCH).backward()
    task.step(make_batch(), BATCH)
    for name, parameter in reference.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(
            gradients(task)[name], parameter.grad, rtol=1e-3, atol=1e-4 * scale
        )


def test_non_finite_gradients_are_zeroed_and_counted():
    """NaN, ∞ and −∞ in known places: those entries are 0, the others as without them."""
    clean, task = make_task(), make_task()
    conv = "unet.out_conv.weight"

    def poison(gradient):
        gradient = gradient.clone()
        gradient[0, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        return gradient

    task.denoiser.get_parameter(conv).register_hook(poison)
    assert int(clean.step(make_batch(), BATCH)["train/nonfinite_gradients"]) == 0
    assert int(task.step(make_batch(), BATCH)["train/nonfinite_gradients"]) == 3
    expected = gradients(clean)
    expected[conv][0, 0, 0] = 0
    for name, gradient in gradients(task).items():
        assert torch.equal(gradient, expected[name]), name


def test_a_batch_of_nan_leaves_the_weights_where_they_are():
    task = make_task("D")
    before = copy.deepcopy(task.denoiser.state_dict())
    data, noise, ln_sigma, labels = make_batch()
    metrics = task.step((data * torch.nan, noise, ln_sigma, labels), BATCH)
    head = task.denoiser.head.linear.weight.numel()
    total = sum(p.numel() for p in task.denoiser.parameters())
    assert total - head <= int(metrics["train/nonfinite_gradients"]) <= total
    after = task.denoiser.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("config", ["A", "E", "G"])
def test_a_restored_task_continues_as_if_never_stopped(tmp_path, config, channels_last):
    """Weights, averages and metrics bit for bit, dropout on (A, E) or off (G), through a file."""
    first, second = (make_task(config, channels_last=channels_last) for _ in range(2))
    for k in (1, 2):
        first.step(make_batch(k), k * BATCH)
    save_tree(tmp_path / "checkpoint", first.state_dict())
    second.load_state_dict(load_tree(tmp_path / "checkpoint"))
    for k in (3, 4):
        metrics = [task.step(make_batch(k), k * BATCH) for task in (first, second)]
        assert torch.equal(metrics[0]["train/loss"], metrics[1]["train/loss"])
    assert next(iter(first.optimizer.state.values()))["step"] == 4
    for a, b in zip(first.denoiser.parameters(), second.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
        moments = [t.optimizer.state[p] for t, p in ((first, a), (second, b))]
        for name in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(moments[0][name], moments[1][name])
            assert moments[0][name].stride() == moments[1][name].stride()
    for a, b in zip(first.average.sums, second.average.sums, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("config", ["A", "G"])
def test_the_layout_in_memory_changes_nothing_but_rounding(config):
    """Channels last: convolution weights and their moments lie so, and gradients are the same."""
    plain, last = (make_task(config, dropout=0.0, channels_last=wish) for wish in (False, True))
    last.denoiser.load_state_dict(plain.denoiser.state_dict())  # random draws fill memory in order
    for task in (plain, last):
        task.step(make_batch(), BATCH)
    weight = last.denoiser.get_parameter("unet.dec.8x8-block0.conv0.weight")
    for tensor in (weight, last.optimizer.state[weight]["exp_avg"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()
    for name, gradient in gradients(plain).items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients(last)[name], gradient, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(("config", "forced"), [("D", False), ("E", True), ("G", True)])
def test_weights_are_set_back_before_the_loss_sees_them(config, forced):
    """‖w‖ = √n for each output unit of every layer, in each step; D leaves them to grow."""
    task, seen = make_task(config), []
    layers = [module for module in task.denoiser.modules() if isinstance(module, Layer)]

    def look(*_):
        norms = [la.weight.detach().flatten(1).norm(dim=1) / la.fan_in**0.5 for la in layers]
        seen.append(torch.cat(norms))

    task.denoiser.register_forward_pre_hook(look)
    for k in (1, 2, 3):
        if k == 3:
            with torch.no_grad():
                layers[0].weight.mul_(5)
        task.step(make_batch(k), k * BATCH)
    assert len(seen) == 3
    assert len(seen[0]) == sum(len(layer.weight) for layer in layers)
    for units in seen:
        assert bool((units - 1).abs().max() < 1e-3) == forced


def test_rate_and_times_of_a_step():
    """Ramp of 2 batches, decay from batch 2 on; the average learns of images, not steps."""
    task = make_task()
    rates = [task.step(make_batch(), k * BATCH)["train/lr"] for k in (1, 2, 3, 8)]
    assert rates == pytest.approx([0.005, 0.01, 0.01 * (2 / 3) ** 0.5, 0.005])
    assert task.optimizer.param_groups[0]["lr"] == rates[-1]
    assert task.optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert task.average.calls == [(8, 8), (16, 8), (24, 8), (64, 8)]


def test_training_lowers_the_loss():
    for config in CONFIGS:
        task = make_task(config, lr_ref=None if config in "ABC" else 0.01, lr_rampup_nimg=1)
        losses = [
            float(task.step(make_batch(), k * BATCH)["train/weighted_mse"]) for k in range(1, 11)
        ]
        assert np.isfinite(losses).all(), config
        assert losses[-1] < losses[0], config


def test_labels_reach_a_conditional_network_alone():
    task, other = make_task(), make_task()
    data, noise, ln_sigma, labels = make_batch()
    losses = [
        t.step((data, noise, ln_sigma, given), BATCH)["train/loss"]
        for t, given in ((task, labels), (other, (labels + 1) % 3))
    ]
    assert losses[0] != losses[1]
    blind = make_task(conditional=False)
    metrics = blind.step(make_batch(), BATCH)
    assert np.isfinite(float(metrics["train/loss"]))


def test_errors_by_noise_level():
    """Six bins, a standard deviation wide; sums and counts in each by hand."""
    task = make_task()  # ln σ ~ N(−0.4, 1)
    data, noise, _, labels = make_batch()
    ln_sigma = torch.tensor([-3.0, -2.0, -1.9, -0.5, 0.0, 0.5, 1.7, 5.0])
    metrics = task.step((data, noise, ln_sigma, labels), BATCH)
    names = bin_names(task.config)
    middles = np.exp(np.array([-2.9, -1.9, -0.9, 0.1, 1.1, 2.1]))
    assert [float(name.rpartition("_")[2]) for name in names] == pytest.approx(middles, rel=5e-3)
    assert [int(metrics[name][1]) for name in names] == [1, 2, 1, 2, 0, 2]
    total = sum(float(metrics[name][0]) for name in names)
    assert total == pytest.approx(BATCH * float(metrics["train/weighted_mse"]), rel=1e-5)


class Latents:
    """Ten latents of one value each, without spread."""

    shape = (2, 4, 4)
    normalization = Normalization(torch.tensor([4.5, 4.5]), torch.tensor([1.0, 2.0]))

    def __len__(self):
        return 10

    def batch(self, indices):
        mean = torch.tensor(indices).float().reshape(-1, 1, 1, 1).expand(-1, *self.shape)
        return mean, torch.zeros_like(mean), torch.tensor(indices)


def test_batches_of_latents():
    """Data of standard deviation ½, each image once an epoch, ln σ ~ N(P_mean, P_std²)."""
    config = resolve("G", diffusion_params(batch=500, p_mean=-0.8, p_std=1.6))
    data, noise, ln_sigma, labels = next(batches(Latents(), config, 0.0, 0)(0))
    value = (labels.float() - 4.5).reshape(-1, 1, 1, 1)
    expected = torch.cat([value, value / 2], dim=1).expand(-1, -1, 4, 4) * 0.5
    torch.testing.assert_close(data, expected)
    assert labels.bincount().tolist() == [50] * 10
    assert float(ln_sigma.mean()) == pytest.approx(-0.8, abs=0.3)
    assert float(ln_sigma.std()) == pytest.approx(1.6, rel=0.15)
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


def test_batches_depend_on_time_alone():
    """What follows image 16 is the same from a start at 0 and from a resume at 16."""
    start = batches(Latents(), resolve("G", diffusion_params()), 0.0, 3)
    whole, resumed = list(islice(start(0), 4)), list(islice(start(16), 2))
    for a, b in zip(whole[2:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(whole[0][1], whole[1][1])


def test_labels_are_left_out_at_random_and_nothing_else_changes():
    config = resolve("G", diffusion_params(batch=500))
    *plain, labels = next(batches(Latents(), config, 0.0, 0)(0))
    *other, dropped = next(batches(Latents(), config, 0.2, 0)(0))
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    missing = dropped == -1
    assert 0.12 < float(missing.float().mean()) < 0.28
    assert torch.equal(dropped[~missing], labels[~missing])


def test_the_spread_of_a_latent_is_sampled_afresh():
    class Spread(Latents):
        def batch(self, indices):
            mean, _, labels = super().batch(indices)
            return torch.full_like(mean, 4.5), torch.ones_like(mean), labels

    data = next(batches(Spread(), resolve("G", diffusion_params(batch=500)), 0.0, 0)(0))[0]
    assert float(data[:, 0].std()) == pytest.approx(0.5, rel=0.03)
    assert float(data[:, 1].std()) == pytest.approx(0.25, rel=0.03)
