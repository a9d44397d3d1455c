"""Magnitudes of activations, weights and updates."""

import copy

import numpy as np
import pytest
import torch
from tiny_denoiser import (
    BATCH,
    diffusion_params,
    make_batch,
    make_denoiser,
    make_task,
    perturb,
    weights,
)
from torch.nn import functional

from edm2.diffusion import build_denoiser, magnitudes
from edm2.ema import PowerEMA
from edm2.params.configs import CONFIGS

CONV, ATTENTION = ("conditioning.affine", "conv0", "conv1"), ("attention.proj", "attention.qkv")
LAYERS = {  # by bucket and block: 8 and 16 channels, one block per level, attention at 4×4
    "enc-8x8": {"block0": CONV},
    "enc-4x4": {"down": CONV, "block0": (*CONV, *ATTENTION, "skip")},
    "dec-4x4": {
        "in0": (*CONV, *ATTENTION),
        "in1": CONV,
        "block0": (*CONV, *ATTENTION, "skip"),
        "block1": (*CONV, *ATTENTION, "skip"),
    },
    "dec-8x8": {"up": CONV, "block0": (*CONV, "skip"), "block1": (*CONV, "skip")},
}
NAMES = {
    bucket: {
        f"{bucket.replace('-', '.', 1)}-{block}.{layer}"
        for block, layers in blocks.items()
        for layer in layers
    }
    for bucket, blocks in LAYERS.items()
}


def network(config):
    return perturb(make_denoiser(config, diffusion_params())).eval()


def rows(tensor):
    """Root mean square of each output unit's row, in float64."""
    values = tensor.detach().double().numpy()
    return np.sqrt((values.reshape(len(values), -1) ** 2).mean(1))


def check(metrics, kind, magnitudes):
    """Compare the metrics of one kind with `magnitudes`: layer name → [units]."""
    expected = {}
    for bucket, names in NAMES.items():
        values = np.concatenate([magnitudes(name) for name in sorted(names)])
        expected |= {f"{kind}_max/{bucket}": values.max(), f"{kind}_mean/{bucket}": values.mean()}
    actual = {key: float(value) for key, value in metrics.items() if key.startswith(kind)}
    assert actual == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
def test_buckets_have_all_layers_of_residual_blocks_once(config):
    """With conditioning, attention and skips, without input, output and embedding."""
    unet = network(config).unet
    names = {module: name for name, module in unet.named_modules()}
    buckets = unet.buckets().items()
    assert {bucket: {names[layer] for layer in layers} for bucket, layers in buckets} == NAMES
    assert all(len(layers) == len(NAMES[bucket]) for bucket, layers in buckets)


@pytest.mark.parametrize("config", CONFIGS)
def test_magnitudes_of_weights(config):
    unet = network(config).unet
    check(magnitudes.weights(unet), "weights", lambda name: rows(unet.get_submodule(name).weight))


def layer_output(module, config, x, gain=1.0):
    """The output of a layer from its formula, with gain and bias; normalized from D on."""
    w, bias = module.weight.double(), module.bias
    if config in "DEFG":
        unit = w.flatten(1) / (1e-4 + w.flatten(1).square().mean(1, keepdim=True).sqrt())
        w = (unit / unit.shape[1] ** 0.5).reshape(w.shape) * gain
    x, b = x.double(), None if bias is None else bias.double()
    return (
        x @ w.T + (0 if b is None else b)
        if w.ndim == 2
        else functional.conv2d(x, w, b, padding="same")
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_magnitudes_of_activations(config):
    """Over samples and pixels, of the layers' outputs recomputed from their inputs."""
    denoiser, inputs = network(config), {}
    data, noise, ln_sigma, labels = make_batch()
    for name, module in denoiser.unet.named_modules():
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: inputs.__setitem__(name, (args[0], kwargs)),
            with_kwargs=True,
        )
    activations = magnitudes.activations(
        denoiser.unet, lambda: denoiser(data + noise, ln_sigma.exp(), labels)
    )

    def units(name):
        x, kwargs = inputs[name]
        output = layer_output(denoiser.unet.get_submodule(name), config, x, **kwargs)
        return rows(output.transpose(0, 1))

    check(activations, "activations", units)


def test_updates_are_relative_to_the_new_weights():
    """So weights that were zero before have the finite magnitude 1."""
    unet = make_denoiser("A", diffusion_params()).unet
    old = {name: p.detach().clone() for name, p in unet.named_parameters()}
    with magnitudes.updates(unet) as updates:
        perturb(unet, 0.3)

    def units(name):
        weight = unet.get_submodule(name).weight
        return rows(weight - old[f"{name}.weight"]) / rows(weight)

    assert old["enc.8x8-block0.conv1.weight"].eq(0).all()
    check(updates, "updates", units)


def test_unit_normal_data_has_magnitude_1():
    """The initial weights of D, and the outputs of its layers for unit normal inputs."""
    denoiser = build_denoiser(
        "D",
        channels=64,
        resolution=32,
        channel_mult=(1,),
        res_blocks=1,
        attention_resolutions=(32,),
    )
    layers = [la for bucket in denoiser.unet.buckets().values() for la in bucket]

    def forward():
        for layer in layers:
            in_channels, is_conv = layer.weight.shape[1], layer.weight.ndim == 4
            layer(
                torch.randn(2, in_channels, 32, 32) if is_conv else torch.randn(4096, in_channels)
            )

    unet = denoiser.unet
    metrics = magnitudes.weights(unet) | magnitudes.activations(unet, forward)
    means = {key: float(value) for key, value in metrics.items() if "_mean" in key}
    assert len(means) == 4
    assert means == pytest.approx(dict.fromkeys(means, 1.0), abs=0.03)


@pytest.mark.parametrize("config", ["A", "D", "G"])
def test_steps_at_multiples_of_magnitudes_nimg_report_magnitudes(config):
    """Of weights and activations before the step, and of the step's update."""
    task = make_task(config, magnitudes_nimg=2 * BATCH, microbatch=4)
    first = task.step(make_batch(1), BATCH)
    assert not [key for key in first if key.startswith(("weights", "activations", "updates"))]
    reference = copy.deepcopy(task.denoiser).eval()
    reference.force_norms()
    metrics = task.step(make_batch(2), 2 * BATCH)
    data, noise, ln_sigma, labels = (tensor[:4] for tensor in make_batch(2))
    sigma = ln_sigma.exp()
    noisy = data + sigma[:, None, None, None] * noise
    expected = magnitudes.activations(reference.unet, lambda: reference(noisy, sigma, labels))
    activations = {k: float(v) for k, v in metrics.items() if k.startswith("activations")}
    assert activations == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-4)
    old, new = reference.unet, task.denoiser.unet

    def units(name):
        old_weight, new_weight = (unet.get_submodule(name).weight for unet in (old, new))
        return rows(new_weight - old_weight) / rows(new_weight)

    check(metrics, "weights", lambda name: rows(old.get_submodule(name).weight))
    check(metrics, "updates", units)
    assert not [key for key in task.step(make_batch(3), 3 * BATCH) if "dec-" in key]


@pytest.mark.parametrize("config", ["A", "G"])
def test_magnitudes_of_the_average_are_those_of_a_network_with_its_parameters(config):
    """Of the longest tracked average, as it is before the step; the raw ones are unchanged."""
    task = make_task(config, magnitudes_nimg=2 * BATCH, magnitudes_of_average=True)
    task.average = PowerEMA(task.denoiser.unet, [0.05, 0.2])
    task.step(make_batch(1), BATCH)
    perturb(task.denoiser)
    task.average.update(2 * BATCH, BATCH)
    reference = copy.deepcopy(task.denoiser)
    reference.unet.load_state_dict(task.average.tensors(0.2))
    metrics = task.step(make_batch(2), 2 * BATCH)
    assert {f"average/{k}" for k in metrics if k.startswith(("weights", "activations"))} == {
        key for key in metrics if key.startswith("average/")
    }
    averaged = {k.removeprefix("average/"): v for k, v in metrics.items() if "average/" in k}
    check(averaged, "weights", lambda name: rows(reference.unet.get_submodule(name).weight))
    data, noise, ln_sigma, labels = make_batch(2)
    sigma = ln_sigma.exp()
    noisy = data + sigma[:, None, None, None] * noise
    reference.eval()
    expected = magnitudes.activations(reference.unet, lambda: reference(noisy, sigma, labels))
    activations = {k: float(v) for k, v in averaged.items() if k.startswith("activations")}
    assert activations == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-4)
    raw = {k: float(metrics[k]) for k in activations}
    assert raw != pytest.approx(activations, rel=1e-2)


def test_replaced_parameters_return_after_an_error():
    unet, replaced = network("A").unet, []
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    other = {name: p + 1 for name, p in before.items()}

    def fail():
        with magnitudes.replaced_parameters(unet, other):
            replaced.extend(p.detach().clone() for p in unet.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    for name, values, p in zip(before, replaced, unet.parameters(), strict=True):
        assert torch.equal(values, before[name] + 1)
        assert torch.equal(other[name], before[name] + 1)
        assert torch.equal(p, before[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("A", {}),
        ("E", {"microbatch": 4}),
        ("G", {}),
        ("G", {"dropout": 0.3, "magnitudes_of_average": True}),
    ],
)
def test_measuring_magnitudes_does_not_change_training(config, changes):
    """The weights after three steps are the same bits, with dropout too (A, E, one of G)."""
    runs = []
    for interval in (BATCH, 8 * BATCH):
        task = make_task(config, magnitudes_nimg=interval, **changes)
        counts = [len(task.step(make_batch(k), k * BATCH)) for k in (1, 2, 3)]
        runs.append((counts, weights(task)))
    (measured_counts, measured), (plain_counts, plain) = runs
    assert min(measured_counts) > max(plain_counts)
    assert all(torch.equal(measured[name], value) for name, value in plain.items())


@pytest.mark.parametrize(("config", "expected"), [("D", 7), ("E", 1), ("F", 1), ("G", 1)])
def test_forced_weights_are_reported_with_magnitude_1(config, expected):
    """D does not force norms, so its rescaled weights keep their magnitude of 7."""
    task = make_task(config, magnitudes_nimg=2 * BATCH)
    task.step(make_batch(1), BATCH)
    with torch.no_grad():
        for layer in (la for bucket in task.denoiser.unet.buckets().values() for la in bucket):
            layer.weight.mul_(7 / layer.weight.flatten(1).square().mean().sqrt())
    metrics = task.step(make_batch(2), 2 * BATCH)
    means = {key: float(value) for key, value in metrics.items() if key.startswith("weights_mean")}
    assert means.keys() == {f"weights_mean/{bucket}" for bucket in NAMES}
    assert means == pytest.approx(
        dict.fromkeys(means, expected), rel=0.03 if expected > 1 else 1e-3
    )
