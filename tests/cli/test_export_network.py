"""`edm2 export network`: the folder makes the images of the project's network."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import REPLICATE
from tiny_network import write_network

from edm2.diffusion.inference import prepare_for_inference
from edm2.params import load
from edm2.pipeline.networks import load_networks
from edm2.pipeline.portable import read_portable
from edm2.pipeline.project_networks import project_sampler
from edm2.reporting.selection import best_of, metrics_of, read_networks
from edm2.sampling.generate import generate, seed_labels

CPU = torch.device("cpu")
SWEEP = "models/sweep/G-0"


@pytest.fixture
def entered(finished, monkeypatch):
    monkeypatch.chdir(finished)
    monkeypatch.setenv("DVC_ROOT", str(finished))
    return finished


def exported_images(network, seeds):
    """Images of an exported network, with nothing but its folder."""
    shape, sampling = network.denoiser.shape, network.sampling
    labels = seed_labels(seeds, len(network.classes), sampling.labels)
    size = (shape.in_channels, shape.resolution, shape.resolution)
    denoise = prepare_for_inference(network.denoiser)
    codec = network.codec.load(CPU)
    batches = generate(denoise, seeds, labels, size, sampling, CPU)
    return torch.cat(
        [codec.decode(network.normalization.denormalize(batch.samples)) for batch in batches]
    )


def test_the_best_network_is_exported_with_its_metrics_and_its_images(entered, run, tmp_path):
    result = run("export", "network", tmp_path / "net", "--license", "cc-by-4.0")
    assert result.status == 0, result.err
    table = read_networks([Path("reports/fid/G-0.csv")])
    best = best_of(table)
    assert best["network"] in result.out
    network = read_portable(tmp_path / "net")
    assert network.provenance["evaluation"]["metrics"] == metrics_of(table, best)
    assert network.provenance["average"]["ema_length"] == best["ema_length"]
    assert network.provenance["license"] == "cc-by-4.0"
    file = Path(f"{SWEEP}/{best['network']}.safetensors")
    stored = load_file(file)
    exported = load_file(tmp_path / "net/model.safetensors")
    assert {f"unet.{name}" for name in stored} == set(exported)
    for name, tensor in stored.items():
        assert exported[f"unet.{name}"].dtype == tensor.dtype
        assert torch.equal(exported[f"unet.{name}"], tensor)
    sampler = project_sampler(load("params.yaml").of("G"), "G", CPU)
    assert network.classes == sampler.classes
    denoise = sampler.denoise(file, None, 1.0)
    batches = sampler.images(denoise, range(6), sampler.labels(range(6)))
    expected = torch.cat([batch.samples for batch in batches])
    assert torch.equal(exported_images(network, range(6)), expected)
    assert str(entered) not in (tmp_path / "net/config.json").read_text()
    assert (tmp_path / "net/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_network_is_chosen_by_its_ema_length_or_its_file(entered, run, tmp_path):
    by_length = run("export", "network", tmp_path / "a", "--ema-length", "0.05")
    (network,) = [n for n in load_networks(REPLICATE) if n.ema_length == 0.05]
    by_file = run("export", "network", tmp_path / "b", "--network", f"{SWEEP}/{network.file}")
    assert (by_length.status, by_file.status) == (0, 0)
    assert "no --license" in by_length.out
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in "ab"]
    assert configs[0] == configs[1]
    (value,) = {
        row["value"]
        for _, row in read_networks([Path("reports/fid/G-0.csv")]).iterrows()
        if (row["network"], row["seeds"], row["samples"]) == (network.name, "sweep", 300)
    }
    assert configs[0]["provenance"]["evaluation"]["metrics"]["fd_classifier_300"] == value


def test_the_last_weights_keep_their_uncertainty_head(entered, run, tmp_path):
    file = "models/diffusion/G-0/network.safetensors"
    result = run("export", "network", tmp_path / "net", "--network", file)
    assert result.status == 0, result.err
    assert "not evaluated" in result.out
    denoiser = read_portable(tmp_path / "net").denoiser
    state = denoiser.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(file).items())
    assert denoiser.uncertainty(torch.ones(1)).item() != 0
    assert "not an average" in (tmp_path / "net/README.md").read_text()


def test_a_network_that_describes_itself_needs_no_project(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = write_network(tmp_path / "net")
    result = run("export", "network", "copy", "--network", network / "model.safetensors")
    assert result.status == 0, result.err
    copies = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("net", "copy")]
    assert copies[0] == copies[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ema-length", "0.07"], "the sweep of G-0 has the EMA lengths 0.05, 0.1, 0.2"),
        (["--training", "G-9"], "--training G-9"),
        (["--training", "A"], "--training A"),
        (["--network", "nowhere.safetensors"], "nowhere.safetensors: no such network"),
        (["--network", "x.safetensors", "--ema-length", "0.1"], "expected only one"),
        (["--network", f"{SWEEP}/nowhere.safetensors"], "no such network"),
        (["--network", "models/vae/network.safetensors"], "another network"),
    ],
)
def test_wrong_requests_name_the_option_and_write_nothing(entered, run, tmp_path, options, words):
    result = run("export", "network", tmp_path / "net", *options)
    assert result.status == 2
    assert words in result.err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_anything_is_read(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(write_network(tmp_path / "net"), tmp_path / "there")
    result = run("export", "network", "there")
    assert result.status == 2
    assert "there: exists" in result.err


def test_a_published_network_keeps_its_license(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = {"license": "cc-by-nc-sa-4.0", "published": True}
    network = write_network(tmp_path / "net", provenance=published) / "model.safetensors"
    result = run("export", "network", "copy", "--network", network, "--license", "mit")
    assert result.status == 2
    assert all(part in result.err for part in ("--license mit", "cc-by-nc-sa-4.0"))
    assert not (tmp_path / "copy").exists()
    options = ("--license", published["license"])
    assert run("export", "network", "copy", "--network", network, *options).status == 0
