"""torch.compile makes one graph of the loss, once, whatever the training does."""

import pytest
import torch
from tiny_denoiser import diffusion_params, make_batch, make_denoiser, make_task, perturb
from torch._dynamo.testing import CompileCounter

from edm2.diffusion.layers import normalized_once
from edm2.diffusion.loss import DenoisingLoss
from edm2.params.configs import CONFIGS

pytestmark = pytest.mark.slow
MICROBATCH = 4


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts the graphs of torch.compile, which must take in all of what it compiles."""
    torch.compiler.reset()
    counter, original = CompileCounter(), torch.compile

    def compiled(module: torch.nn.Module, **options: object) -> object:
        return original(module, **{**options, "backend": counter, "fullgraph": True})

    monkeypatch.setattr(torch, "compile", compiled)
    return counter


@pytest.mark.parametrize("config", CONFIGS)
def test_training_compiles_to_one_graph_once(counter: CompileCounter, config: str) -> None:
    """With dropout, while the learning rate warms up and magnitudes are measured.

    Microbatches have a second graph in configs that normalize weights: that of cached ones.
    """
    changes = {"channel_mult": (1,), "dropout": 0.1}
    task = make_task(config, compiled=True, magnitudes_nimg=16, microbatch=MICROBATCH, **changes)
    for step in (1, 2, 3):
        task.step(make_batch(step, MICROBATCH), 8 * step)
        assert counter.frame_count == 1
    for step in (4, 5, 6):
        task.step(make_batch(step), 8 * step)
        assert counter.frame_count == 1 + (CONFIGS[config].weight_norm != "none")


@pytest.mark.parametrize("config", ["A", "G"])
def test_the_graph_computes_the_loss(counter: CompileCounter, config: str) -> None:
    denoiser = make_denoiser(config, diffusion_params(dropout=0.0))
    perturb(denoiser)
    loss = DenoisingLoss(denoiser)
    compiled = torch.compile(loss)
    data, noise, ln_sigma, labels = make_batch()
    batch = data, noise, ln_sigma.exp(), labels
    expected = loss(*batch)
    torch.testing.assert_close(compiled(*batch), expected)
    with normalized_once(denoiser):
        torch.testing.assert_close(compiled(*batch), expected)
