"""The pipeline on latents without images, from the exported ones of another project."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import PER_CONFIG, STAGES, TINY, make_project, run_stage

from edm2.data.damage import refuse_damaged
from edm2.data.dataset_zip import latent_members, write_dataset_zip
from edm2.data.latents import LatentShards
from edm2.data.normalization import Normalization
from edm2.data.prepared import open_images, open_latents
from edm2.params import UserError, load
from edm2.params.seams import CODECS, DETECTORS, CodecKind, DetectorKind
from edm2.pipeline.encoding import NOT_READ, _compare_scales
from edm2.pipeline.run_facts import run_facts
from edm2.reporting.latents_section import latents_section
from edm2.reporting.sections import baselines_section, vae_section
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.summary import write_summary
from edm2.runtime.manifest import read_manifest
from edm2.vae.codec import load_codec
from edm2.vae.stable_diffusion import PAPER

CPU = torch.device("cpu")
DIMS = 4
CHANGES = {
    **TINY,
    "dataset.source": "latents",
    "dataset.path": "latents.zip",
    "dataset.held_out": None,
    "codec.kind": "toy",
    "diffusion.duration_nimg": 512,
    "evaluation.detector": "means",
    "evaluation.reference": "theirs.pkl",
    "evaluation.samples": 40,
    "evaluation.confirm": False,
    "sweep.ema_lengths": [0.1],
}


def test_another_scale_than_that_of_the_constants_is_warned_of(capsys):
    """Also Stable Diffusion's own scaling of latents to a standard deviation of one."""
    near = Normalization(PAPER.mean + 0.5, PAPER.std * 1.3)
    _compare_scales(near, PAPER)
    assert capsys.readouterr().out == ""
    for far in (
        Normalization(PAPER.mean * 0.18215, PAPER.std * 0.18215),
        Normalization(PAPER.mean + torch.tensor([0, 0, 4.0, 0]), PAPER.std),
    ):
        _compare_scales(far, PAPER)
        assert f"{far.mean[2]:.3g}" in capsys.readouterr().out


def test_damaged_latents_are_called_latents():
    with pytest.raises(UserError, match=r"1 of 9 latents cannot be used.*repair:\n  a.npy"):
        refuse_damaged(["a.npy"], 9, "repair", NOT_READ)


class Toy:
    """A codec of the digits' 16×16 pixels and latents of [4, 4, 4]; images show three channels."""

    downscale, channels, normalization = 4, 4, None

    def __init__(self, folder, device):
        pass

    def decode(self, latents):
        levels = (latents[:, :3].sigmoid() * 255).round().byte()
        return levels.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Means:
    """A detector whose features are quarters of the image."""

    name, fingerprint, dims = "means", "0", DIMS

    def __init__(self, path, folder, device):
        pass

    def features(self, images):
        parts = images.float().mean(1).unflatten(1, (2, 8)).unflatten(3, (2, 8))
        return parts.mean(dim=(2, 4)).flatten(1)


@pytest.fixture
def members_of_seams():
    CODECS.register("toy", CodecKind(Toy, lambda choice, folder, root: None, (4, 4)))
    DETECTORS.register("means", DetectorKind(Means, DIMS, published=True))
    yield
    CODECS.remove("toy")
    DETECTORS.remove("means")


def test_a_zip_of_latents_and_a_reference_are_enough(
    finished, tmp_path, monkeypatch, members_of_seams, capsys
):
    folder = make_project(tmp_path / "project", CHANGES)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    exported = LatentShards(finished / "data/latents", "train")
    write_dataset_zip(folder / "latents.zip", latent_members(exported))
    mean, covariance = np.full(DIMS, 100.0), 50 * np.eye(DIMS)
    theirs = {"means": {"mu": mean, "sigma": covariance}}
    (folder / "theirs.pkl").write_bytes(pickle.dumps(theirs))
    for stage in STAGES[:-1]:
        run_stage(stage, "G" if stage in PER_CONFIG else "")
    assert capsys.readouterr().out.count("latents and no images") == 4

    latents, order = (
        LatentShards(folder / "data/latents", "train"),
        open_latents(folder / "data/images").indices,
    )
    assert len(latents) == len(exported)
    everything = range(len(exported))
    ours, theirs = latents.batch(everything), exported.batch(order.tolist())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for one, other in zip(
        *((s.normalization.mean, s.normalization.std) for s in (latents, exported)), strict=True
    ):
        torch.testing.assert_close(one, other)

    (row,) = pd.read_csv(folder / "reports/fid/G-0.csv").to_dict("records")
    assert row["metric"] == "fd_means_40"
    assert np.isfinite(row["value"])
    assert row["value"] > 0
    assert read_manifest(folder / "models/vae")["kind"] == "toy"
    assert isinstance(load_codec(folder / "models/vae", CPU), Toy)
    for stage in ("features", "vae", "baselines"):
        assert (folder / f"reports/{stage}/metrics.json").read_text().strip() == "{}"
    outputs = StageOutputs(folder / "reports", load("params.yaml").replicates, latents.classes)
    sections = (vae_section, baselines_section, latents_section)
    texts = dict(section for write in sections for section in write(outputs, folder))
    assert "no reconstruction evaluated" in texts["VAE"]
    assert "no held-out images" in texts["Baselines"]
    assert "robustness to noise is not known" in texts["Latents"]
    spectrum = pd.read_csv(folder / "reports/latents/spectrum.csv")
    assert spectrum["signal"].tolist() == ["latents"] * 3
    write_summary(outputs, folder)
    facts = run_facts(load("params.yaml"), read_manifest(folder / "data/images"), CPU)
    assert f"latents of {len(exported):,} training images" in facts.summary["Data set"]
    with pytest.raises(UserError, match="data/images: has no images"):
        open_images(folder / "data/images", "train")
