"""`edm2 export`: written files are read again, by other programs and by their conventions."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from ruamel.yaml import YAML

from edm2.data.latents import LatentShards
from edm2.data.normalization import Normalization
from edm2.data.prepared import open_images
from edm2.data.sources import FileSource, ZipImages
from edm2.params import load
from edm2.params.vae import Vae
from edm2.pipeline.vae_card import vae_card
from edm2.runtime.manifest import load_manifest
from edm2.vae.codec import load_codec, save_vae
from edm2.vae.network import Autoencoder
from edm2.vae.published import save_codec

CPU = torch.device("cpu")


@pytest.mark.parametrize(("option", "split"), [("train", "train"), ("held-out", "held_out")])
def test_exported_images_are_read_as_the_same_data_set(finished, run, tmp_path, option, split):
    file = tmp_path / "digits.zip"
    result = run("--project", finished, "export", "dataset", file, "--split", option)
    assert result.status == 0, result.err
    (images,) = open_images(finished / "data/images", split)
    assert f"{len(images):,} images" in result.out
    source = FileSource(ZipImages(file), images.resolution, "lanczos")
    pixels, labels = images.batch(range(len(images)))
    assert source.labels.tolist() == labels.tolist()
    for index in range(0, len(images), 50):
        assert torch.equal(torch.from_numpy(source.image(index)).permute(2, 0, 1), pixels[index])


def test_exported_latents_have_means_and_then_standard_deviations(finished, run, tmp_path):
    file = tmp_path / "latents.zip"
    result = run("--project", finished, "export", "dataset", file, "--latents")
    assert result.status == 0, result.err
    latents = LatentShards(finished / "data/latents", "train")
    mean, std, labels = latents.batch(range(len(latents)))
    with zipfile.ZipFile(file) as archive:
        rows = json.loads(archive.read("dataset.json"))["labels"]
        assert [label for _, label in rows] == labels.tolist()
        assert len(archive.namelist()) == len(rows) + 1
        for index in (0, 1000, len(rows) - 1):
            name = rows[index][0]
            assert name == f"{index // 1000:05d}/img-mean-std-{index:08d}.npy"
            values = np.load(io.BytesIO(archive.read(name)))
            assert values.dtype == np.float32
            assert np.array_equal(values, np.concatenate([mean[index], std[index]]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x.tar",), "x.tar: expected a name that ends in .zip"),
        (("there.zip",), "there.zip: exists"),
        (("x.zip", "--latents", "--split", "held-out"), "only training images are encoded"),
    ],
)
def test_wrong_requests_write_nothing(finished, run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("there.zip").write_bytes(b"mine")
    result = run("--project", finished, "export", "dataset", *arguments)
    assert result.status == 2
    assert words in result.err
    assert [p.read_bytes() for p in tmp_path.glob("*.*")] == [b"mine"]


def test_diffusers_loads_the_exported_vae(finished, run, tmp_path):
    """Its latents and images are those of the project's VAE, of digits, and of the project that reads it."""
    folder = tmp_path / "vae"
    result = run("--project", finished, "export", "vae", folder)
    assert (result.status, str(folder) in result.out) == (0, True), result.err
    theirs = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    ours = load_codec(finished / "models/vae", CPU)
    (held_out,) = open_images(finished / "data/images", "held_out")
    pixels = held_out.batch(range(32))[0]
    mean, std = ours.encode(pixels)
    with torch.no_grad():
        latents = theirs.encode(pixels / 127.5 - 1).latent_dist
        decoded = theirs.decode(mean).sample
    torch.testing.assert_close(latents.mean, mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std, std, atol=1e-6, rtol=0)
    expected = (decoded * 127.5 + 127.5).round().clamp(0, 255)
    assert (ours.decode(mean) - expected).abs().max() <= 1
    choice = load(finished / "params.yaml").codec.model_copy(
        update={"kind": "stable_diffusion", "path": "vae"}
    )
    save_codec(choice, tmp_path / "codec", tmp_path)
    again = load_codec(tmp_path / "codec", CPU)
    torch.testing.assert_close(again.encode(pixels)[0], mean, atol=1e-5, rtol=0)
    assert (again.decode(mean).int() - ours.decode(mean).int()).abs().max() <= 1


def test_the_card_of_the_vae_has_its_data_options_and_metrics(finished, run, tmp_path):
    run("--project", finished, "export", "vae", tmp_path / "my vae")
    card = (tmp_path / "my vae/README.md").read_text(encoding="utf-8")
    header, text = card.removeprefix("---\n").split("---\n", 1)
    assert YAML(typ="safe").load(header)["library_name"] == "diffusers"
    metrics = json.loads((finished / "reports/vae/metrics.json").read_text())
    vae = load_manifest(finished / "models/vae")
    for words in (
        "# my vae",
        "digits",
        f"| psnr | {metrics['psnr']:.6g} |",
        f"| vae.duration_nimg | {vae['vae']['duration_nimg']} |",
        vae["files"]["network.safetensors"]["sha256"],
        "License: not set",
    ):
        assert words in text


@pytest.mark.parametrize("average", [None, {"sigma_rel": 0.05}])
def test_the_card_has_the_ema_length_of_the_weights(average):
    manifest = {"files": {"network.safetensors": {"sha256": "0"}}, "average": average}
    images = {"resolution": 32, "source": "digits", "images": {"train": 8, "held_out": 2}}
    normalization = Normalization(torch.zeros(16), torch.ones(16))
    card = vae_card("vae", Vae(), images, {}, normalization, "training", manifest)
    assert ("| EMA length | 0.05 |" in card) == (average is not None)


def test_outside_a_project_the_folder_of_a_training_is_asked_for(outside_projects, run):
    result = run("export", "vae", outside_projects / "vae")
    assert (result.status, result.out) == (2, "")
    assert "--from OUT" in result.err


def test_a_vae_that_diffusers_has_not_is_refused(project, run, tmp_path):
    """All its options that do not fit are named; nothing is written."""
    folder = project()
    params = load(folder / "params.yaml").vae
    params = params.model_copy(update={"norm_groups": None, "clamp": 4.0})
    save_vae(Autoencoder(params), params, folder / "models/vae")
    result = run("export", "vae", tmp_path / "vae")
    assert result.status == 2
    for words in ("vae.norm_groups: None", "vae.clamp: 4.0", "2 or 4"):
        assert words in result.err
    assert not list(tmp_path.glob("*vae*"))


def test_latents_of_another_vae_are_an_error(project, run, tmp_path):
    folder = project()
    params = load(folder / "params.yaml").vae
    save_vae(Autoencoder(params), params, folder / "models/vae")
    result = run("export", "vae", tmp_path / "vae")
    assert result.status == 2
    assert "data/latents" in result.err
    assert "dvc repro encode_latents" in result.err


def test_only_a_vae_that_was_trained_here_is_exported(project, run, tmp_path):
    folder = project()
    rgb = load(folder / "params.yaml").codec.model_copy(update={"kind": "rgb"})
    save_codec(rgb, folder / "models/vae", folder)
    result = run("export", "vae", tmp_path / "vae")
    assert (result.status, "codec.kind is rgb" in result.err) == (2, True)
    result = run("export", "vae", folder)
    assert (result.status, f"{folder}: exists" in result.err) == (2, True)
