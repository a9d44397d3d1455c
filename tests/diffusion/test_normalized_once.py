"""Weights that are normalized once for several microbatches."""

import copy
from collections import Counter

import pytest
import torch
from tiny_denoiser import diffusion_params, make_batch, make_denoiser, make_task, shake

from edm2.diffusion.layers import Layer, normalized_once


def network(config):
    denoiser = make_denoiser(config, diffusion_params(dropout=0.0))
    shake(denoiser)
    return denoiser


def passes(denoiser):
    """Two forward and backward passes over microbatches of other sizes; their outputs."""
    data, noise, ln_sigma, labels = make_batch()
    found = []
    for part in (slice(0, 5), slice(5, 8)):
        out = denoiser(data[part] + noise[part], ln_sigma[part].exp(), labels[part])
        (out * data[part]).square().sum().backward()
        found.append(out.detach())
    return torch.cat(found)


def layers(denoiser):
    return {name: m for name, m in denoiser.named_modules() if isinstance(m, Layer)}


@pytest.mark.parametrize("config", ["C", "D", "G"])
def test_outputs_and_gradients_are_the_same(config):
    """Of weights and gains; what took no part (the uncertainty head) has no gradient."""
    plain, once = network(config), network(config)
    expected = passes(plain)
    with normalized_once(once):
        held = [layer for layer in layers(once).values() if layer.unit is not None]
        found = passes(once)
    assert len(held) == (0 if config == "C" else len(layers(once)))
    torch.testing.assert_close(found, expected)
    gradients = {name: p.grad for name, p in once.named_parameters()}
    for name, parameter in plain.named_parameters():
        if parameter.grad is None:
            assert name == "head.linear.weight"
            assert gradients[name] is None
        else:
            assert parameter.grad.ne(0).any(), name
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(
                gradients[name], parameter.grad, rtol=1e-3, atol=1e-5 * scale
            )


def test_gradients_add_to_those_there_are():
    once, twice = network("G"), network("G")
    with normalized_once(once):
        passes(once)
    for _ in range(2):
        with normalized_once(twice):
            passes(twice)
    for a, b in zip(once.unet.parameters(), twice.unet.parameters(), strict=True):
        torch.testing.assert_close(2 * a.grad, b.grad)


@pytest.mark.parametrize("config", ["C", "D", "G"])
@pytest.mark.parametrize("microbatch", [None, 4, 2])
def test_a_step_normalizes_each_weight_once(monkeypatch, config, microbatch):
    """Whatever the number of microbatches; and nothing is held afterwards."""
    calls, original = Counter(), Layer.normalized_weight

    def counted(self, *args):
        calls[self] += 1
        return original(self, *args)

    task = make_task(config, microbatch=microbatch)
    monkeypatch.setattr(Layer, "normalized_weight", counted)
    task.step(make_batch(), 8)
    every = list(layers(task.denoiser).values())
    assert calls == ({} if config == "C" else dict.fromkeys(every, 1))
    assert [layer.unit for layer in every] == [None] * len(every)


def test_a_failure_inside_leaves_nothing_held():
    """Nor does a half-done gradient reach the weights; the network works as before."""
    denoiser, data = network("G"), make_batch()[0]
    before = denoiser(data, torch.ones(8)).detach()
    untouched = copy.deepcopy(denoiser)

    def fail():
        with normalized_once(denoiser):
            denoiser(data, torch.ones(8)).sum().backward()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert all(
        layer.unit is None and layer.weight.grad is None for layer in layers(denoiser).values()
    )
    assert torch.equal(denoiser(data, torch.ones(8)), before)
    with torch.no_grad():  # changed weights are seen again
        for one in (denoiser, untouched):
            next(iter(layers(one).values())).weight[0].mul_(-1)
    changed = denoiser(data, torch.ones(8))
    assert torch.equal(changed, untouched(data, torch.ones(8)))
    assert not torch.equal(changed, before)
