"""`edm2 export`: written files are read again, by other programs' conventions."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2.data.latents import LatentShards
from edm2.data.prepared import open_images
from edm2.data.sources import FileSource, ZipImages


@pytest.mark.parametrize(("option", "split"), [("train", "train"), ("held-out", "held_out")])
def test_exported_images_are_read_as_the_same_data_set(finished, run, tmp_path, option, split):
    file = tmp_path / "digits.zip"
    result = run("--project", finished, "export", "dataset", file, "--split", option)
    assert result.status == 0, result.err
    (images,) = open_images(finished / "data/images", split)
    assert str(len(images)) in result.out.replace(" ", "")
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
