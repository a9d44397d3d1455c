"""torch.compile sees the loss as one graph, whether weights are held normalized or not."""

import pytest
import torch
from tiny_denoiser import diffusion_params, make_batch, make_denoiser, shake

from edm2.diffusion.layers import normalized_once
from edm2.diffusion.loss import DenoisingLoss


@pytest.mark.parametrize("config", ["A", "G"])
def test_the_loss_is_one_graph(config):
    torch.compiler.reset()
    denoiser = make_denoiser(config, diffusion_params(dropout=0.0))
    shake(denoiser)
    loss = DenoisingLoss(denoiser)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    data, noise, ln_sigma, labels = make_batch()
    given = data, noise, ln_sigma.exp(), labels
    expected = loss(*given)
    torch.testing.assert_close(compiled(*given), expected)
    with normalized_once(denoiser):
        torch.testing.assert_close(compiled(*given), expected)
