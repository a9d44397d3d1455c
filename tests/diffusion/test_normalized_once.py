"""`normalized_once`: weights are normalized once for several microbatches."""

import copy
from collections import Counter

import pytest
import torch
from tiny_denoiser import diffusion_params, make_batch, make_denoiser, make_task, perturb

from edm2.diffusion.layers import Layer, normalized_once


def network(config):
    return perturb(make_denoiser(config, diffusion_params(dropout=0.0)))


def passes(denoiser):
    """Outputs of two forward and backward passes over microbatches of different sizes."""
    data, noise, ln_sigma, labels = make_batch()
    outputs = []
    for rows in (slice(0, 5), slice(5, 8)):
        out = denoiser(data[rows] + noise[rows], ln_sigma[rows].exp(), labels[rows])
        (out * data[rows]).square().sum().backward()
        outputs.append(out.detach())
    return torch.cat(outputs)


def layers(denoiser):
    return {name: m for name, m in denoiser.named_modules() if isinstance(m, Layer)}


@pytest.mark.parametrize("config", ["C", "D", "G"])
def test_outputs_and_gradients_are_the_same(config):
    """For weights and gains; the uncertainty head is not used and has no gradient."""
    plain, once = network(config), network(config)
    expected = passes(plain)
    with normalized_once(once):
        cached = [layer for layer in layers(once).values() if layer.cached_weight is not None]
        outputs = passes(once)
    assert len(cached) == (0 if config == "C" else len(layers(once)))
    torch.testing.assert_close(outputs, expected)
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


def test_gradients_add_to_existing_ones():
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
    """For any number of microbatches; the cache is empty afterwards."""
    calls, original = Counter(), Layer.normalized_weight

    def counted(self, *args):
        calls[self] += 1
        return original(self, *args)

    task = make_task(config, microbatch=microbatch)
    monkeypatch.setattr(Layer, "normalized_weight", counted)
    task.step(make_batch(), 8)
    all_layers = list(layers(task.denoiser).values())
    assert calls == ({} if config == "C" else dict.fromkeys(all_layers, 1))
    assert all(layer.cached_weight is None for layer in all_layers)


def test_an_exception_empties_the_cache_and_drops_the_gradients():
    """The network works as before."""
    denoiser, data = network("G"), make_batch()[0]
    output = denoiser(data, torch.ones(8)).detach()
    untouched = copy.deepcopy(denoiser)

    def fail():
        with normalized_once(denoiser):
            denoiser(data, torch.ones(8)).sum().backward()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert all(
        layer.cached_weight is None and layer.weight.grad is None
        for layer in layers(denoiser).values()
    )
    assert torch.equal(denoiser(data, torch.ones(8)), output)
    with torch.no_grad():  # new weights take effect
        for module in (denoiser, untouched):
            next(iter(layers(module).values())).weight[0].mul_(-1)
    changed = denoiser(data, torch.ones(8))
    assert torch.equal(changed, untouched(data, torch.ones(8)))
    assert not torch.equal(changed, output)
