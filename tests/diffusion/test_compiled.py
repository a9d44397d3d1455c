"""torch.compile makes one graph of the loss, once, whatever the training does."""

import pytest
import torch
from graph_counter import count_graphs
from tiny_denoiser import make_batch, make_task
from torch._dynamo.testing import CompileCounter

from edm2.diffusion.loss import DenoisingLoss
from edm2.diffusion.training import DenoiserTask
from edm2.params.configs import CONFIGS

pytestmark = pytest.mark.slow
MICROBATCH = 4


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    return count_graphs(monkeypatch)


@pytest.mark.parametrize("config", CONFIGS)
def test_training_compiles_to_one_graph_once(counter: CompileCounter, config: str) -> None:
    """With dropout, while the learning rate warms up and magnitudes are measured.

    Microbatches have a second graph in configs that normalize weights, of which one is tried: that of
    cached weights.
    """
    changes = {"channel_mult": (1,), "dropout": 0.1}
    if config == "G":
        changes["attention_resolutions"] = (8,)
    task = make_task(config, compiled=True, magnitudes_nimg=16, microbatch=MICROBATCH, **changes)
    for step in (1, 2, 3):
        task.step(make_batch(step, MICROBATCH), 8 * step)
        assert counter.frame_count == 1
    assert_the_graph_computes_the_loss(task)
    assert counter.frame_count == 1
    if config not in "AG":
        return
    for step in (4, 5, 6):
        task.step(make_batch(step), 8 * step)
        assert counter.frame_count == 1 + (CONFIGS[config].weight_norm != "none")


def assert_the_graph_computes_the_loss(task: DenoiserTask) -> None:
    data, noise, ln_sigma, labels = make_batch(0, MICROBATCH)
    batch = data, noise, ln_sigma.exp(), labels
    results = []
    for loss in (DenoisingLoss(task.denoiser), task.loss):
        torch.manual_seed(0)  # of dropout
        results.append(loss(*batch))
    torch.testing.assert_close(results[1], results[0])
