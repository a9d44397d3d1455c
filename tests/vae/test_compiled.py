"""torch.compile makes whole graphs of the network, and no more of them as a training goes on."""

import pytest
from graph_counter import count_graphs
from tiny_autoencoder import BATCH, CPU, TINY, make_backbone, make_batch, make_network, vae_params

from edm2.vae.training import VaeTask

pytestmark = pytest.mark.slow

FLIPS = {"equivariance.flip": 0.5, "equivariance.flip_channels": 1, "latent_channels": 6}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"microbatch": 2}, 2),  # without gradients, and with them
        ({"variance": "learned", "clamp": 2.0, "attention": True}, 1),
        (FLIPS, 1),
    ],
    ids=["plain", "microbatches", "learned variance", "flips"],
)
def test_a_training_compiles_to_few_graphs(
    monkeypatch: pytest.MonkeyPatch, changes, expected
) -> None:
    counter = count_graphs(monkeypatch)
    params = vae_params(TINY, changes)
    task = VaeTask(make_network(params), params, make_backbone(), 0, CPU, compiled=True)
    for step in range(1, 5):
        task.step(make_batch(params, step), BATCH * step)
    assert counter.frame_count == expected


def test_crops_and_sizes_add_few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the first size, one for any other, each with and without a crop."""
    counter = count_graphs(monkeypatch)
    params = vae_params(TINY, equivariance__crop=0.5, equivariance__scale=0.5)
    task = VaeTask(make_network(params), params, make_backbone(), 0, CPU, compiled=True)
    transforms = set()
    for step in range(1, 13):
        task.step(make_batch(params, step), BATCH * step)
        transform = task._transform(slice(0, BATCH), BATCH * step, 8)
        transforms.add((transform.crop, transform.scaled_side))
    assert len(transforms) > 6
    assert counter.frame_count <= 6
