"""`sweep.materialize: false`: networks are made from the snapshots where they are used, with equal values."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import REPLICATE, TINY, run_stage, write_params

from edm2.cli.main import edm2
from edm2.ema import reconstruct
from edm2.params import UserError
from edm2.pipeline.network_reader import NetworkReader
from edm2.pipeline.networks import load_networks
from edm2.pipeline.paths import sweep_folder
from edm2.runtime.manifest import read_manifest

SWEEP = sweep_folder(REPLICATE)
GROUPS = {
    "sweep.nimg": [512, 1024],
    "sweep.tensors": ["*-affine"],
    "sweep.tensors_base": 0.1,
    "guidance.guide": "snapshot",
    "guidance.nimg": 768,
    "guidance.strength": [1.0, 2.0],
}


def sweep_again(folder, **changes):
    """Run the sweep with changed params."""
    write_params(folder / "params.yaml", {**TINY, **GROUPS, **changes})
    run_stage("sweep_ema", "G")


@pytest.fixture
def passes(monkeypatch):
    """The numbers of averages that passes over the snapshots make."""
    counts, combine = [], reconstruct.__globals__["combine"]

    def counting(paths, names, weights, *args):
        counts.append(len(weights(names[0])))
        return combine(paths, names, weights, *args)

    monkeypatch.setitem(reconstruct.__globals__, "combine", counting)
    return counts


def test_every_kind_of_network_has_the_values_that_its_file_would_have(project, passes):
    folder = project()
    sweep_again(folder)
    manifest = read_manifest(SWEEP)
    files = {name: load_file(SWEEP / name) for name in manifest["files"]}
    sweep_again(folder, **{"sweep.materialize": False})
    assert [path.name for path in SWEEP.iterdir()] == ["manifest.json"]
    assert len(passes) == 1  # that of the files
    unstored = read_manifest(SWEEP)
    assert unstored["networks"] == manifest["networks"]
    assert (manifest["materialized"], unstored["materialized"]) == (True, False)
    assert set(unstored["averages"]) == set(files)
    together, one_by_one = NetworkReader(2**30), NetworkReader()
    for number, name in enumerate(unstored["averages"]):
        before = len(passes)
        for reader in (together, one_by_one):
            tensors = reader.read(SWEEP / name)
            assert tensors.keys() == files[name].keys()
            for key, tensor in tensors.items():
                assert tensor.dtype == files[name][key].dtype
                assert torch.equal(tensor, files[name][key])
        assert passes[before:] == ([len(files), 1] if number == 0 else [1])


def test_samples_are_the_same(project):
    """Metrics are, too: see test_sharing."""
    folder = project(sweep__materialize=False)
    network = str(SWEEP / load_networks(REPLICATE)[1].file)
    options = ("--seeds", "0-3", "--out")
    edm2.main(["sample", network, *options, "files"], standalone_mode=False)
    run_stage("sweep_ema", "G")
    for _ in range(2):
        edm2.main(["sample", network, *options, "made"], standalone_mode=False)
    for name in ("000000000.png", "000000003.png"):
        assert np.array_equal(*(np.array(Image.open(folder / f / name)) for f in ("files", "made")))
    other = network.replace("0.1.", "0.2.")
    with pytest.raises(UserError, match="networks differ"):
        edm2.main(["sample", other, *options, "made"], standalone_mode=False)


def test_snapshots_that_are_not_those_of_the_sweep_are_refused(project):
    project(sweep__materialize=False)
    run_stage("sweep_ema", "G")
    name = load_networks(REPLICATE)[0].file
    with pytest.raises(UserError, match=r"models/sweep/G-0/none: no such network.* 3 networks"):
        NetworkReader().read(SWEEP / "none")
    manifest = SWEEP.parent.parent / "diffusion/G-0/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(UserError, match=rf"{manifest}: SHA-256 .*dvc repro sweep_ema@G-0"):
        NetworkReader().read(SWEEP / name)
    shutil.rmtree(manifest.parent)
    with pytest.raises(UserError, match=rf"{manifest}: missing.*dvc checkout"):
        NetworkReader().read(SWEEP / name)
