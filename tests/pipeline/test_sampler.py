"""Networks and samples that are not finite make no images."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import REPLICATE, TINY, write_params

from edm2.params import UserError, load
from edm2.params.errors import NotFiniteError
from edm2.pipeline.networks import load_networks
from edm2.pipeline.paths import sweep_folder
from edm2.pipeline.project_networks import project_sampler
from edm2.runtime.noise import normals

CPU = torch.device("cpu")


@pytest.fixture
def sampler(project):
    project(sampling__batch=4)
    return project_sampler(load("params.yaml").of("G"), "G", CPU)


def test_a_network_that_is_not_finite_is_refused(sampler):
    tensors = load_file(sweep_folder(REPLICATE) / load_networks(REPLICATE)[0].file)
    name = "enc.4x4-block0.conv0.weight"
    tensors[name].view(-1)[7] = torch.inf
    network = Path("network.safetensors")  # no manifest lists it
    save_file(tensors, network)
    with pytest.raises(NotFiniteError, match=rf"{network}: .*\({name}\)"):
        sampler.denoise(network, None, 1.0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_samples_that_are_not_finite_are_refused_by_network_and_seed(sampler, value):
    """The second batch of four has them in the images of seeds 15 and 17."""
    network = sweep_folder(REPLICATE) / load_networks(REPLICATE)[0].file
    denoise, calls = sampler.denoise(network, None, 1.0), []

    def diverging(x, sigma, labels):
        calls.append(len(x))
        out = denoise(x, sigma, labels)
        if len(calls) > 5:  # three steps of Heun's method
            out[[1, 3], 0, 0, 0] = value
        return out

    seeds = range(10, 18)
    images = sampler.images(diverging, seeds, sampler.labels(seeds))
    assert next(images).samples.dtype == torch.uint8
    with pytest.raises(NotFiniteError, match=rf"{network}, guidance 1: 2 of 4 .*\(seeds 15, 17\)"):
        next(images)


def drawn(monkeypatch, config, batch, denoise, seeds):
    """Labels by image seed, and all noise by purpose and image seed, of an evaluation with `seeds`, of a
    training with another seed.
    """
    noise = {}

    def recorded(seed, purpose, numbers, shape):
        values = normals(seed, purpose, numbers, shape)
        noise.update({(purpose, int(n)): v for n, v in zip(numbers, values, strict=True)})
        return values

    monkeypatch.setattr(sys.modules["edm2.sampling.generate"], "normals", recorded)
    training = {"configs": [config], "seeds": [batch], "sampling.batch": batch}
    evaluation = {"sampling.churn": 1.0, "sampling.labels": "uniform"}
    write_params(Path("params.yaml"), {**TINY, **training, **evaluation})
    sampler = project_sampler(load("params.yaml").of(config), config, CPU)
    for _ in sampler.images(denoise, seeds, labels := sampler.labels(seeds)):
        pass
    return dict(zip(seeds, labels.tolist(), strict=True)), noise


def test_networks_of_all_configs_trainings_and_lengths_have_the_same_noise_and_labels(
    project, monkeypatch
):
    """Common random numbers: the initial noise, that of each step, and the class are those of the image's
    seed, whichever network there is. So comparisons are paired over seed blocks.
    """
    project()
    labels, noise = drawn(monkeypatch, "G", 3, lambda x, sigma, _: torch.tanh(x), range(10, 18))
    others, other = drawn(monkeypatch, "A", 4, lambda x, sigma, _: x / 2, range(13, 16))
    assert {purpose for purpose, _ in noise} > {"sampling/noise", "sampling/churn/0"}
    assert {number for _, number in other} == {13, 14, 15}
    assert all(torch.equal(noise[key], values) for key, values in other.items())
    assert {seed: labels[seed] for seed in others} == others


def test_networks_are_read_once_for_all_strengths(sampler, monkeypatch):
    """The network and its guide; a network that could not be loaded is not taken for loaded."""
    first, second, third = (sweep_folder(REPLICATE) / n.file for n in load_networks(REPLICATE))
    reads, read = [], sampler.networks.reader.read
    monkeypatch.setattr(
        sampler.networks.reader, "read", lambda path: reads.append(path) or read(path)
    )
    x, sigma, labels = torch.randn(1, *sampler.shape), torch.ones(1), torch.zeros(1).long()
    for network, guide, strength in (
        (first, None, 1.0),
        (first, second, 2.0),
        (first, second, 3.0),
    ):
        sampler.denoise(network, guide, strength)
    assert reads == [first, second]
    with pytest.raises(UserError):
        sampler.denoise(Path("params.yaml"), None, 1.0)
    again = sampler.denoise(first, third, 2.0)(x, sigma, labels)
    assert reads == [first, second, Path("params.yaml"), first, third]
    fresh = project_sampler(sampler.networks.params, "G", CPU).denoise(first, third, 2.0)(
        x, sigma, labels
    )
    assert torch.equal(again, fresh)
