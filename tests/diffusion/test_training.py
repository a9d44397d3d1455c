"""Training steps of the denoiser."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from tiny_denoiser import BATCH, CLASSES, CPU, RUNTIME, diffusion_params, make_batch, make_task

from edm2.data.normalization import Normalization
from edm2.diffusion.backbone import Backbone
from edm2.diffusion.batches import batches
from edm2.diffusion.layers import Layer
from edm2.diffusion.objective import EdmObjective
from edm2.diffusion.training import bin_names
from edm2.diffusion.unet import Unet
from edm2.params import UserError
from edm2.params.configs import CONFIGS
from edm2.params.resolution import resolve
from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.runtime.sharding import is_dtensor

pytestmark = pytest.mark.slow


def gradients(task):
    return {name: p.grad for name, p in task.denoiser.named_parameters()}


@pytest.mark.parametrize("config", CONFIGS)
def test_microbatches_give_the_gradients_of_the_whole_batch(config):
    """Also if the last microbatch is smaller (8 = 3 + 3 + 2)."""
    whole, parts = make_task(config, dropout=0.0), make_task(config, dropout=0.0, microbatch=3)
    metrics = [task.step(make_batch(), BATCH) for task in (whole, parts)]
    for name, gradient in gradients(whole).items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients(parts)[name], gradient, rtol=1e-3, atol=1e-4 * scale)
    for key in ("train/loss", "train/weighted_mse"):
        assert float(metrics[1][key]) == pytest.approx(float(metrics[0][key]), rel=1e-4)


@pytest.mark.parametrize("config", ["A", "B", "G"])
def test_gradients_are_of_the_scaled_sum_over_pixels(config):
    """∂/∂θ of loss_scaling/N · Σ_images Σ_pixels (λ/e^u·(D−y)² + u)."""
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
    """NaN, ∞ and −∞ become 0; all other entries are unchanged."""
    clean, task = make_task(), make_task()
    conv = "unet.out_conv.weight"

    def make_nonfinite(gradient):
        gradient = gradient.clone()
        gradient[0, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        return gradient

    task.denoiser.get_parameter(conv).register_hook(make_nonfinite)
    assert int(clean.step(make_batch(), BATCH)["train/nonfinite_gradients"]) == 0
    assert int(task.step(make_batch(), BATCH)["train/nonfinite_gradients"]) == 3
    expected = gradients(clean)
    expected[conv][0, 0, 0] = 0
    for name, gradient in gradients(task).items():
        assert torch.equal(gradient, expected[name]), name


def test_a_batch_of_nan_does_not_change_the_weights():
    task = make_task("D")
    initial = copy.deepcopy(task.denoiser.state_dict())
    data, noise, ln_sigma, labels = make_batch()
    metrics = task.step((data * torch.nan, noise, ln_sigma, labels), 2 * BATCH)
    head = task.denoiser.head.linear.weight.numel()
    total = sum(p.numel() for p in task.denoiser.parameters())
    assert total - head <= int(metrics["train/nonfinite_gradients"]) <= total
    final = task.denoiser.state_dict()
    assert all(final[name].equal(value) for name, value in initial.items())


@pytest.mark.parametrize(("config", "changes"), [("A", {"microbatch": 4}), ("G", {"dropout": 0.3})])
def test_recomputed_activations_change_no_bit(config, changes):
    """Of losses and weights, with dropout. What is kept for the backward pass is less than half."""
    tasks = [make_task(config, activation_checkpointing=on, **changes) for on in (False, True)]
    kept = [dict[int, int](), dict[int, int]()]  # storage → bytes
    for task, sizes in zip(tasks, kept, strict=True):
        parameters = {p.data_ptr() for p in task.denoiser.parameters()}

        def keep(tensor, sizes=sizes, parameters=parameters):
            if tensor.data_ptr() not in parameters:
                sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            task.step(make_batch(1), BATCH)
    losses = [task.step(make_batch(2), 2 * BATCH)["train/loss"] for task in tasks]
    assert torch.equal(*losses)
    for a, b in zip(*(task.denoiser.parameters() for task in tasks), strict=True):
        assert torch.equal(a, b)
    assert sum(kept[1].values()) < sum(kept[0].values()) / 2


def test_a_backbone_without_blocks_has_no_activations_to_recompute(monkeypatch):
    monkeypatch.setattr(Unet, "residual_blocks", Backbone.residual_blocks)
    with pytest.raises(UserError, match=r"activation_checkpointing.*'unet'"):
        make_task(activation_checkpointing=True)


def test_one_process_shards_nothing_and_says_so(capsys):
    task = make_task(data_parallel="fsdp")
    assert not any(map(is_dtensor, task.denoiser.parameters()))
    assert "nothing is sharded" in capsys.readouterr().out


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("config", ["A", "E", "G"])
def test_a_restored_task_continues_like_an_uninterrupted_one(tmp_path, config, channels_last):
    """Weights, averages and losses are equal bit for bit, with dropout (A, E) and without (G)."""
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
def test_memory_layout_changes_gradients_only_by_rounding(config):
    """Weights of convolutions and their Adam moments are channels-last too."""
    plain, last = (make_task(config, dropout=0.0, channels_last=value) for value in (False, True))
    # make_task adds noise in the order of memory, so the weights differ
    last.denoiser.load_state_dict(plain.denoiser.state_dict())
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
def test_norms_are_forced_before_the_forward_pass(config, forced):
    """‖w‖ = √n for each output unit of every layer, in each step, except in D."""
    task, magnitudes = make_task(config), []
    layers = [module for module in task.denoiser.modules() if isinstance(module, Layer)]

    def record(*_):
        norms = [la.weight.detach().flatten(1).norm(dim=1) / la.fan_in**0.5 for la in layers]
        magnitudes.append(torch.cat(norms))

    task.denoiser.register_forward_pre_hook(record)
    for k in (1, 2, 3):
        if k == 3:
            with torch.no_grad():
                layers[0].weight.mul_(5)
        task.step(make_batch(k), k * BATCH)
    assert len(magnitudes) == 3
    assert len(magnitudes[0]) == sum(len(layer.weight) for layer in layers)
    for units in magnitudes:
        assert bool((units - 1).abs().max() < 1e-3) == forced


def test_steps_set_the_learning_rate_and_update_the_average():
    """The rate of a step follows the images before it: 0, then up over 2 batches, then a decay. The
    average gets the time after the step.
    """
    task = make_task()
    rates = [task.step(make_batch(), k * BATCH)["train/lr"] for k in (1, 2, 3, 8)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.01 * (2 / 7) ** 0.5])
    assert task.optimizer.param_groups[0]["lr"] == rates[-1]
    assert task.optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert task.average.updates == [(8, 8), (16, 8), (24, 8), (64, 8)]


def test_training_lowers_the_loss():
    for config in CONFIGS:
        task = make_task(config, lr_ref=None if config in "ABC" else 0.01, lr_rampup_nimg=1)
        losses = [
            float(task.step(make_batch(), k * BATCH)["train/weighted_mse"]) for k in range(1, 11)
        ]
        assert np.isfinite(losses).all(), config
        assert losses[-1] < losses[0], config


def test_labels_reach_only_conditional_networks():
    data, noise, ln_sigma, labels = make_batch()
    for conditional in (True, False):
        first, second = (
            make_task(conditional=conditional).step((data, noise, ln_sigma, classes), BATCH)
            for classes in (labels, (labels + 1) % CLASSES)
        )
        assert torch.isfinite(first["train/loss"])
        assert (first["train/loss"] != second["train/loss"]) == conditional


def test_errors_by_noise_level():
    """Six bins, each one standard deviation wide; counts and sums calculated by hand."""
    task = make_task()  # ln σ ~ N(−0.4, 1)
    data, noise, _, labels = make_batch()
    ln_sigma = torch.tensor([-3.0, -2.0, -1.9, -0.5, 0.0, 0.5, 1.7, 5.0])
    metrics = task.step((data, noise, ln_sigma, labels), BATCH)
    names = bin_names(task.objective)
    middles = np.exp(np.array([-2.9, -1.9, -0.9, 0.1, 1.1, 2.1]))
    assert [float(name.rpartition("_")[2]) for name in names] == pytest.approx(middles, rel=5e-3)
    assert [int(metrics[name][1]) for name in names] == [1, 2, 1, 2, 0, 2]
    total = sum(float(metrics[name][0]) for name in names)
    assert total == pytest.approx(BATCH * float(metrics["train/weighted_mse"]), rel=1e-5)


class Latents:
    """Ten constant latents with a standard deviation of zero."""

    shape = (2, 4, 4)
    normalization = Normalization(torch.tensor([4.5, 4.5]), torch.tensor([1.0, 2.0]))

    def __len__(self):
        return 10

    def batch(self, indices):
        mean = torch.tensor(indices).float().reshape(-1, 1, 1, 1).expand(-1, *self.shape)
        return mean, torch.zeros_like(mean), torch.tensor(indices)


def test_batches_of_latents():
    """Normalized data, each image once per epoch, ln σ ~ N(P_mean, P_std²), unit normal noise."""
    config = resolve("G", diffusion_params(batch=500, p_mean=-0.8, p_std=1.6))
    data, noise, ln_sigma, labels = next(
        batches(Latents(), EdmObjective(config), config.batch, 0.0, 0, RUNTIME, CPU)(0)
    )
    value = (labels.float() - 4.5).reshape(-1, 1, 1, 1)
    expected = torch.cat([value, value / 2], dim=1).expand(-1, -1, 4, 4) * 0.5
    torch.testing.assert_close(data, expected)
    assert labels.bincount().tolist() == [50] * 10
    assert float(ln_sigma.mean()) == pytest.approx(-0.8, abs=0.3)
    assert float(ln_sigma.std()) == pytest.approx(1.6, rel=0.15)
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)


def test_batches_depend_only_on_time():
    """The batches after image 16 are the same from a start at 0 and from one at 16."""
    start = batches(
        Latents(), EdmObjective(resolve("G", diffusion_params())), BATCH, 0.0, 3, RUNTIME, CPU
    )
    whole, resumed = list(islice(start(0), 4)), list(islice(start(16), 2))
    for a, b in zip(whole[2:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(whole[0][1], whole[1][1])


def test_label_dropout_changes_only_labels():
    config = resolve("G", diffusion_params(batch=500))
    *expected, labels = next(
        batches(Latents(), EdmObjective(config), config.batch, 0.0, 0, RUNTIME, CPU)(0)
    )
    *other, dropped = next(
        batches(Latents(), EdmObjective(config), config.batch, 0.2, 0, RUNTIME, CPU)(0)
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))
    missing = dropped == -1
    assert 0.12 < float(missing.float().mean()) < 0.28
    assert torch.equal(dropped[~missing], labels[~missing])


def test_latents_are_sampled_with_their_standard_deviation():
    class RandomLatents(Latents):
        def batch(self, indices):
            mean, _, labels = super().batch(indices)
            return torch.full_like(mean, 4.5), torch.ones_like(mean), labels

    objective = EdmObjective(CONFIGS["G"])
    data = next(batches(RandomLatents(), objective, 500, 0.0, 0, RUNTIME, CPU)(0))[0]
    assert float(data[:, 0].std()) == pytest.approx(0.5, rel=0.03)
    assert float(data[:, 1].std()) == pytest.approx(0.25, rel=0.03)
