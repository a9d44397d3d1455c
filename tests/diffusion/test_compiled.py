"""torch.compile makes one graph of the loss, with and without cached normalized weights."""

import pytest
import torch
from tiny_denoiser import diffusion_params, make_batch, make_denoiser, perturb

from edm2.diffusion.layers import normalized_once
from edm2.diffusion.loss import DenoisingLoss

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("config", ["A", "G"])
def test_the_loss_compiles_to_one_graph(config):
    torch.compiler.reset()
    denoiser = make_denoiser(config, diffusion_params(dropout=0.0))
    perturb(denoiser)
    loss = DenoisingLoss(denoiser)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    data, noise, ln_sigma, labels = make_batch()
    batch = data, noise, ln_sigma.exp(), labels
    expected = loss(*batch)
    torch.testing.assert_close(compiled(*batch), expected)
    with normalized_once(denoiser):
        torch.testing.assert_close(compiled(*batch), expected)
