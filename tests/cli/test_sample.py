"""`edm2 sample`: the images of one network."""

import os
import signal
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from project_sampling import NETWORK, sample

from edm2.params import load
from edm2.pipeline import samples
from edm2.pipeline.project_networks import project_sampler
from edm2.pipeline.samples import SampleFolder, SampleRequest
from edm2.runtime.manifest import read_manifest

CPU = torch.device("cpu")


def request(out, **changes):
    defaults = {
        "network": Path(NETWORK),
        "seeds": range(4),
        "classes": None,
        "guide": None,
        "strength": 1.0,
        "out": out,
        "format": "png",
        "subdirs": False,
    }
    return SampleRequest(**{**defaults, **changes})


def names_in(shard):
    with tarfile.open(shard) as tar:
        return tar.getnames()


def pixels(path):
    return np.array(Image.open(path))


def test_an_image_depends_on_its_seed_alone(project):
    """Not on the batch, the order, or the images that exist."""
    folder = project()
    assert NETWORK.rpartition("/")[2] in {
        n["file"] for n in read_manifest(folder / "models/sweep/G-0")["networks"]
    }
    sample("--seeds", "0-39")
    (folder / "samples/000000007.png").unlink()
    before = pixels(folder / "samples/000000003.png")
    sample("--seeds", "7,3,44")
    sampler = project_sampler(load("params.yaml").of("G"), "G", CPU)
    denoise = sampler.denoise(folder / NETWORK, None, 1.0)
    (batch,) = sampler.images(denoise, [7, 44], sampler.labels([7, 44]))
    for seed, image in zip((7, 44), batch.samples, strict=True):
        written = pixels(folder / f"samples/{seed:09d}.png").astype(int)
        assert np.abs(written - image.permute(1, 2, 0).numpy()).max() <= 1
    assert np.array_equal(pixels(folder / "samples/000000003.png"), before)
    assert (folder / "samples/grid.png").exists()


def test_images_that_exist_are_kept(project):
    folder = project()
    sample("--seeds", "0-1")
    path = folder / "samples/000000001.png"
    content, time = path.read_bytes(), path.stat().st_mtime_ns
    sample("--seeds", "0-2")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, time)
    assert (folder / "samples/000000002.png").exists()


def test_labels_are_used(project):
    folder = project()
    sample("--seeds", "0-3", "--classes", "3", "--out", "threes")
    sample("--seeds", "0-9", "--out", "all")
    same = pixels(folder / "threes/000000003.png") == pixels(folder / "all/000000003.png")
    other = pixels(folder / "threes/000000002.png") == pixels(folder / "all/000000002.png")
    assert same.mean() > 0.99  # seed 3 has class 3 either way
    assert not other.all()


def test_seeds_take_the_labels_in_turn_from_the_first_on(tmp_path):
    networks = SimpleNamespace(classes=range(10), conditional=True)
    five = request(tmp_path, seeds=range(5, 10), classes=[4, 1, 2])
    assert SampleFolder(five, SimpleNamespace(networks=networks)).labels.tolist() == [4, 1, 2, 4, 1]


def test_a_recreated_image_keeps_its_label(project):
    """Labels depend on the position among all seeds, not among the missing ones."""
    folder = project()
    options = ("--seeds", "5-9", "--classes", "4,1,2")
    sample(*options)
    path = folder / "samples/000000008.png"
    before = pixels(path).astype(int)
    path.unlink()
    sample(*options)
    assert np.abs(pixels(path) - before).max() <= 1


def test_shards_hold_the_same_images(project):
    folder = project()
    sample("--seeds", "0-4", "--out", "files")
    sample("--seeds", "0-4", "--out", "tars", "--format", "shards")
    shard = folder / "tars/samples-000000000.tar"
    assert sorted(names_in(shard)) == [f"{s:09d}.{e}" for s in range(5) for e in ("cls", "png")]
    with tarfile.open(shard) as tar:
        inside = pixels(tar.extractfile("000000002.png"))
        label = tar.extractfile("000000002.cls").read()
    assert np.array_equal(inside, pixels(folder / "files/000000002.png"))
    assert label == b"2"
    assert not (folder / "tars/grid.png").exists()


@pytest.mark.parametrize("kind", ["png", "shards"])
def test_ranks_share_the_files(project, monkeypatch, kind):
    """Each is made by one rank, even if others exist already, and equals that of a single process."""
    folder = project()
    monkeypatch.setattr(samples, "SHARD", 3)
    single, shared, written = folder / "single", folder / "shared", Counter()
    sample("--seeds", "5-17", "--format", kind, "--out", "single")
    params = load("params.yaml").of("G")
    sampler = project_sampler(params, "G", CPU)
    denoise = sampler.denoise(folder / NETWORK, None, 1.0)
    target = SampleFolder(request(shared, seeds=range(5, 18), format=kind), sampler)
    shared.mkdir()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        before = {path: path.stat().st_mtime_ns for path in shared.iterdir()}
        {"png": target.write_files, "shards": target.write_shards}[kind](denoise)
        after = {path: path.stat().st_mtime_ns for path in shared.iterdir()}
        written.update(path.name for path, time in after.items() if before.get(path) != time)
        assert len(written) >= 2
    expected = {path.name for path in single.iterdir()} - {"grid.png", "samples.json"}
    assert dict(written) == dict.fromkeys(expected, 1)
    for path in single.glob("0*.png"):
        difference = pixels(path).astype(int) - pixels(shared / path.name)
        assert np.abs(difference).max() <= 1
    for path in single.glob("*.tar"):
        assert names_in(path) == names_in(shared / path.name)


@pytest.mark.parametrize(
    ("kind", "expected"), [("png", "sample: 3/3 img"), ("shards", "samples-000000004: 3/3 img")]
)
def test_progress_counts_only_missing_images(project, monkeypatch, capsys, kind, expected):
    project()
    monkeypatch.setattr("edm2.runtime.progress.MIN_SECONDS", -1)
    if kind == "png":
        sample("--seeds", "4-5")
    sample("--seeds", "4-8" if kind == "png" else "4-6", "--format", kind)
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_shard_leaves_no_file_and_is_written_by_the_next_run(
    project, monkeypatch, run, signum
):
    """A scheduler's SIGTERM as well as Ctrl-C."""
    folder, image_sample = project(), samples.image_sample
    monkeypatch.setattr(samples, "SHARD", 2)
    command = ("sample", NETWORK, "--seeds", "0-3", "--format", "shards")

    def interrupted(name, image, label):
        if name == "000000003":
            os.kill(os.getpid(), signum)
        return image_sample(name, image, label)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "image_sample", interrupted)
        result = run(*command)
    assert result.status == 130
    assert "run the same command again" in result.err
    names = {path.name for path in (folder / "samples").iterdir()}
    beside = {f"samples-000000000.tar.{ending}" for ending in ("index.npy", "record.json")}
    assert names == {"samples.json", "samples-000000000.tar"} | beside
    assert run(*command).status == 0
    assert len(names_in(folder / "samples/samples-000000002.tar")) == 4


def test_a_network_trained_with_label_dropout_guides_itself(project):
    folder = project(diffusion__label_dropout=0.1)
    sample("--seeds", "0", "--strength", "2")
    sample("--seeds", "0", "--out", "plain")
    assert (folder / "samples/000000000.png").read_bytes() != (
        folder / "plain/000000000.png"
    ).read_bytes()


def test_the_grid_shows_the_first_classes_and_the_first_seeds_of_each(project, monkeypatch):
    """For any number of classes."""
    monkeypatch.setattr(samples, "GRID_SIZE", 2)
    grids = {}

    def record(path, images, labels, classes):
        grids[path.name] = images, labels

    monkeypatch.setattr(samples, "write_class_grid", record)
    folder = project()
    sample("--seeds", "3-30")
    images, labels = grids["grid.png"]
    assert labels.tolist() == [0, 0, 1, 1]
    for image, seed in zip(images, (10, 20, 11, 21), strict=True):
        assert np.array_equal(image.permute(1, 2, 0), pixels(folder / f"samples/{seed:09d}.png"))


def test_as_a_program(project, program):
    folder = project()
    result = program("sample", NETWORK, "--seeds", "0", cwd=folder)
    assert result.status == 0, result.err
    assert (folder / "samples/000000000.png").exists()
    wrong = program("sample", "nothing", "--seeds", "1", cwd=folder)
    assert wrong.status == 2
    assert f"{folder}/nothing: expected a network" in wrong.err
    assert "Traceback" not in wrong.err


def test_from_a_subfolder_files_are_relative_to_it(project, run, monkeypatch):
    folder = project()
    (folder / "notes").mkdir()
    monkeypatch.chdir(folder / "notes")
    result = run("sample", f"../{NETWORK}", "--seeds", "0")
    assert result.status == 0, result.err
    assert (folder / "notes/samples/000000000.png").exists()
    assert not (folder / "samples").exists()
    assert run("sample", NETWORK, "--seeds", "1").status == 2  # not in notes/


def test_from_elsewhere_the_project_is_named(project, run, tmp_path, monkeypatch):
    folder, elsewhere = project(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    network = os.path.relpath(folder / NETWORK, elsewhere)
    result = run("--project", "../project", "sample", network, "--seeds", "0", "--out", "here")
    assert result.status == 0, result.err
    assert (elsewhere / "here/000000000.png").exists()
