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
    shake,
    weights,
)
from torch.nn import functional

from edm2.diffusion import build_denoiser, magnitudes
from edm2.params.configs import CONFIGS

CONV, ATTENTION = ("conditioning.affine", "conv0", "conv1"), ("attention.proj", "attention.qkv")
LAYERS = {  # of 8 and 16 channels, one block a level, attention at 4×4; by bucket and block
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
    denoiser = make_denoiser(config, diffusion_params())
    shake(denoiser)
    return denoiser.eval()


def rows(tensor):
    """Root mean square of each output unit's row, in float64."""
    values = tensor.detach().double().numpy()
    return np.sqrt((values.reshape(len(values), -1) ** 2).mean(1))


def check(found, what, units):
    """`units` gives the magnitudes of a layer by name."""
    expected = {}
    for bucket, names in NAMES.items():
        values = np.concatenate([units(name) for name in sorted(names)])
        expected |= {f"{what}_max/{bucket}": values.max(), f"{what}_mean/{bucket}": values.mean()}
    picked = {key: float(value) for key, value in found.items() if key.startswith(what)}
    assert picked == pytest.approx(expected, rel=1e-4)


def test_units_of_all_layers_in_residual_blocks_count():
    """Conditioning, attention and skips among them; input, output and embedding not."""
    for config in CONFIGS:
        unet = network(config).unet
        names = {module: name for name, module in unet.named_modules()}
        found = unet.buckets().items()
        assert {bucket: {names[layer] for layer in layers} for bucket, layers in found} == NAMES
        assert all(len(layers) == len(NAMES[bucket]) for bucket, layers in found)


@pytest.mark.parametrize("config", CONFIGS)
def test_weights_are_those_of_the_rows(config):
    unet = network(config).unet
    check(magnitudes.weights(unet), "weights", lambda name: rows(unet.get_submodule(name).weight))


def called(module, config, x, gain=1.0):
    """The output of a layer, from its formula: normalized from D on, gain and bias included."""
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
def test_activations_are_those_of_the_immediate_outputs(config):
    """Units over samples and pixels, of layers recomputed from what goes into them."""
    denoiser, seen = network(config), {}
    data, noise, ln_sigma, labels = make_batch()
    for name, module in denoiser.unet.named_modules():
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: seen.__setitem__(name, (args[0], kwargs)),
            with_kwargs=True,
        )
    found = magnitudes.activations(
        denoiser.unet, lambda: denoiser(data + noise, ln_sigma.exp(), labels)
    )

    def units(name):
        x, given = seen[name]
        output = called(denoiser.unet.get_submodule(name), config, x, **given)
        return rows(output.transpose(0, 1))

    check(found, "activations", units)


def test_updates_are_the_change_over_the_weights():
    """Also of weights that were zero before: their first step is all there is."""
    unet = make_denoiser("A", diffusion_params()).unet
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    with magnitudes.updates(unet) as found:
        shake(unet, by=0.3)

    def units(name):
        weight = unet.get_submodule(name).weight
        return rows(weight - before[f"{name}.weight"]) / rows(weight)

    assert before["enc.8x8-block0.conv1.weight"].eq(0).all()
    check(found, "updates", units)


def test_unit_normal_data_gives_1():
    """Weights of D at its initialization; and outputs of its layers for unit normal inputs."""
    denoiser = build_denoiser(
        "D",
        channels=64,
        resolution=32,
        channel_mult=(1,),
        res_blocks=1,
        attention_resolutions=(32,),
    )
    layers = [la for found in denoiser.unet.buckets().values() for la in found]

    def forward():
        for layer in layers:
            wide = layer.weight.ndim == 4
            layer(
                torch.randn(2, layer.weight.shape[1], 32, 32)
                if wide
                else torch.randn(4096, layer.weight.shape[1])
            )

    means = {**magnitudes.weights(denoiser.unet), **magnitudes.activations(denoiser.unet, forward)}
    found = {key: float(value) for key, value in means.items() if "_mean" in key}
    assert len(found) == 4
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=0.03)


@pytest.mark.parametrize("config", ["A", "D", "G"])
def test_a_step_reports_them_when_they_are_due(config):
    """At multiples of magnitudes_nimg alone: what the step began with, and what it changed."""
    task = make_task(config, magnitudes_nimg=2 * BATCH, microbatch=4)
    quiet = task.step(make_batch(1), BATCH)
    assert not [key for key in quiet if key.startswith(("weights", "activations", "updates"))]
    reference = copy.deepcopy(task.denoiser).eval()
    reference.force_norms()
    metrics = task.step(make_batch(2), 2 * BATCH)
    data, noise, ln_sigma, labels = (tensor[:4] for tensor in make_batch(2))
    sigma = ln_sigma.exp()
    noisy = data + sigma[:, None, None, None] * noise
    seen = magnitudes.activations(reference.unet, lambda: reference(noisy, sigma, labels))
    activations = {key: value for key, value in metrics.items() if key.startswith("activations")}
    assert {k: float(v) for k, v in activations.items()} == pytest.approx(
        {k: float(v) for k, v in seen.items()}, rel=1e-4
    )
    old, new = reference.unet, task.denoiser.unet

    def units(name):
        before, after = (unet.get_submodule(name).weight for unet in (old, new))
        return rows(after - before) / rows(after)

    check(metrics, "weights", lambda name: rows(old.get_submodule(name).weight))
    check(metrics, "updates", units)
    assert not [key for key in task.step(make_batch(3), 3 * BATCH) if "dec-" in key]


@pytest.mark.parametrize(
    ("config", "changes"), [("A", {}), ("E", {"microbatch": 4}), ("G", {}), ("G", {"dropout": 0.3})]
)
def test_looking_changes_nothing(config, changes):
    """Dropout of A and E included: the weights after three steps are the same bits."""
    found = []
    for interval in (BATCH, 8 * BATCH):
        task = make_task(config, magnitudes_nimg=interval, **changes)
        seen = [len(task.step(make_batch(k), k * BATCH)) for k in (1, 2, 3)]
        found.append((seen, weights(task)))
    (often, looked), (never, alone) = found
    assert min(often) > max(never)
    assert all(torch.equal(looked[name], value) for name, value in alone.items())


@pytest.mark.parametrize(("config", "expected"), [("D", 7), ("E", 1), ("F", 1), ("G", 1)])
def test_forced_weights_are_seen_at_magnitude_1(config, expected):
    task = make_task(config, magnitudes_nimg=2 * BATCH)
    task.step(make_batch(1), BATCH)
    with torch.no_grad():
        for layer in (la for found in task.denoiser.unet.buckets().values() for la in found):
            layer.weight.mul_(7 / layer.weight.flatten(1).square().mean().sqrt())
    metrics = task.step(make_batch(2), 2 * BATCH)
    means = {key: float(value) for key, value in metrics.items() if key.startswith("weights_mean")}
    assert means.keys() == {f"weights_mean/{bucket}" for bucket in NAMES}
    assert means == pytest.approx(
        dict.fromkeys(means, expected), rel=0.03 if expected > 1 else 1e-3
    )
