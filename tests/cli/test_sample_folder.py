"""The folder of `edm2 sample`: what it records, and that images of different requests never mix."""

import shutil

import pytest
import torch
from project_sampling import NETWORK, OTHER, sample
from tiny import TINY, write_params

from edm2.params import UserError
from edm2.pipeline import samples
from edm2.pipeline.sampler import Sampler
from edm2.pipeline.samples import SampleFolder

CPU = torch.device("cpu")


def test_shards_of_other_seeds_are_refused(project):
    """Otherwise the last shard would count as complete."""
    project()
    sample("--seeds", "0-4", "--format", "shards")
    with pytest.raises(UserError, match="seeds differ"):
        sample("--seeds", "0-6", "--format", "shards")


def test_a_folder_never_mixes_images_of_different_requests(project):
    folder = project()
    sample("--seeds", "0-1")
    with pytest.raises(UserError, match=rf"--out {folder}/samples: .*\(labels, seeds differ\)"):
        sample("--seeds", "0-1", "--classes", "1")
    with pytest.raises(UserError, match="networks differ"):
        sample("--seeds", "0-1", network=OTHER)


@pytest.mark.parametrize(
    ("options", "changes", "differing"),
    [
        (["--strength", "0"], {}, "strength"),
        (["--guide", OTHER], {}, "networks"),
        (["--config", "F"], {}, "config"),
        ([], {"guidance.interval": [0.3, 4.0]}, "interval"),
        ([], {"sampling.steps": 4}, "sampling"),
        ([], {"runtime.precision": "bf16"}, "precision"),
        (["--steps", "4", "--solver", "euler", "--churn", "1"], {}, "sampling"),
        (["--dtype", "bf16", "--device", "cpu", "--batch", "7"], {}, "precision"),
        (["--subdirs"], {}, "subdirs"),
    ],
)
def test_the_folder_records_everything_that_determines_its_images(
    project, monkeypatch, options, changes, differing
):
    base = {
        "configs": ["F", "G"],
        "guidance.guide": "snapshot",
        "guidance.nimg": 512,
        "guidance.interval": [0.3, 5.0],
    }
    folder = project()

    def only_claim(request, networks):
        sampler = Sampler(networks, CPU, networks.precision(CPU))
        SampleFolder(request, sampler).claim()

    monkeypatch.setattr(samples, "write_samples", only_claim)
    shutil.copy(NETWORK, "network.safetensors")  # the folder of a sweep names its config
    command = ("--seeds", "0", "--guide", NETWORK, "--strength", "1.5")
    write_params(folder / "params.yaml", {**TINY, **base})
    sample(*command, network="network.safetensors")
    sample(*command, network="network.safetensors")
    write_params(folder / "params.yaml", {**TINY, **base, **changes})
    with pytest.raises(UserError, match=rf"\({differing} differ\)"):
        sample(*command, *options, network="network.safetensors")


def test_images_of_another_codec_or_other_latents_are_not_mixed_in(project):
    folder = project()
    sample("--seeds", "0")
    for results in ("models/vae", "data/latents"):
        path = folder / results / "manifest.json"
        before = path.read_text()
        path.write_text(before + "\n")
        differing = {"models/vae": "codec", "data/latents": "latents"}[results]
        with pytest.raises(UserError, match=rf"\({differing} differ\)"):
            sample("--seeds", "0")
        path.write_text(before)
    sample("--seeds", "0")


def test_params_without_effect_on_images_may_change(project):
    folder = project()
    sample("--seeds", "0")
    changes = {
        "guidance.strength": [1.0, 2.0],
        "guidance.guide": "snapshot",
        "guidance.nimg": 512,
        "guidance.interval": [0.3, 5.0],
        "sampling.batch": 7,
    }
    write_params(folder / "params.yaml", {**TINY, **changes})
    sample("--seeds", "0-1")
    assert (folder / "samples/000000001.png").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("samples", "a file"),
        ("samples/samples.json", "{"),
        ("samples/samples.json", "3"),
        ("samples/000000000.png", "from another tool"),
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(project, file, content):
    path = project() / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=r"--out .*/samples: .* Name another folder"):
        sample("--seeds", "0")
    assert path.read_text() == content
