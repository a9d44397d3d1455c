"""`edm2 sample`: the images of one network."""

import os
import shutil
import signal
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, write_params

from edm2.cli.main import edm2
from edm2.params import UserError, load
from edm2.pipeline import samples
from edm2.pipeline.project_networks import project_sampler
from edm2.pipeline.sampler import Sampler
from edm2.pipeline.samples import SampleFolder, SampleRequest
from edm2.runtime.manifest import read_manifest

NETWORK = "models/sweep/G-0/000000001024-ema_length-0.1.safetensors"
CPU = torch.device("cpu")
OTHER = NETWORK.replace("0.1.", "0.2.")


def sample(*options, network=NETWORK):
    """The command, with errors as exceptions."""
    edm2.main(["sample", network, *options], prog_name="edm2", standalone_mode=False)


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


def test_impossible_requests_are_refused(project, run):
    project()
    with pytest.raises(UserError, match="--classes 10: expected classes below 10"):
        sample("--classes", "10")
    with pytest.raises(UserError, match=r"params.yaml: expected a network"):
        sample(network="params.yaml")
    with pytest.raises(UserError, match="--config F: .*Use --config G"):
        sample("--config", "F")
    with pytest.raises(UserError, match="--config F: .*configs"):
        sample("--config", "F", network="elsewhere.safetensors")
    with pytest.raises(UserError, match="--config H: no such training config"):
        sample("--config", "H", network="elsewhere.safetensors")
    result = run("sample", NETWORK, "--seeds", "9-3")
    assert result.status == 2
    assert "--seeds" in result.err
    assert "'9-3'" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guide", NETWORK], f"--guide .*{NETWORK}: .*strength 1"),
        (
            ["--strength", "2"],
            "--strength 2: expected --guide, or .* diffusion.label_dropout above 0",
        ),
    ],
)
def test_guidance_without_effect_is_refused(project, options, message):
    project()
    with pytest.raises(UserError, match=message):
        sample(*options)


def test_an_unconditional_network_takes_no_labels(project):
    project(diffusion__conditional=False)
    with pytest.raises(UserError, match=r"--classes: .*diffusion\.conditional: false"):
        sample("--classes", "1")
    with pytest.raises(UserError, match="--strength 2: expected --guide"):
        sample("--strength", "2")


def test_a_network_trained_with_label_dropout_guides_itself(project):
    folder = project(diffusion__label_dropout=0.1)
    sample("--seeds", "0", "--strength", "2")
    sample("--seeds", "0", "--out", "plain")
    assert (folder / "samples/000000000.png").read_bytes() != (
        folder / "plain/000000000.png"
    ).read_bytes()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--strength", "nan"),
        ("--strength", "inf"),
        ("--strength", "-1"),
        ("--strength", "much"),
        ("--seeds", "3,4,3"),
        ("--seeds", "0-99999999999999999999"),
        ("--seeds", "-1"),
        ("--classes", "1,,2"),
    ],
)
def test_meaningless_values_are_refused(empty_project, run, option, value):
    empty_project({})
    result = run("sample", NETWORK, option, value)
    assert result.status == 2
    assert option in result.err
    assert f"{value!r}: expected" in result.err


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_wrong_network_creates_no_folder(project, precision):
    folder = project(runtime__precision=precision)
    for network in (NETWORK.replace("0.1.", "0.7."), "params.yaml"):
        with pytest.raises(UserError, match=f"{network}: expected a network"):
            sample(network=network)
    assert not (folder / "samples").exists()
    sample("--seeds", "0")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes(data)


def swap(path):
    other = path.with_name(Path(OTHER).name)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip, NETWORK),
        (swap, NETWORK),
        (flip, "models/vae/network.safetensors"),
        (flip, "models/vae/manifest.json"),
        (flip, "data/latents/manifest.json"),
    ],
)
def test_a_file_that_is_not_as_written_makes_no_images(project, damage, file):
    folder = project()
    damage(folder / file)
    with pytest.raises(UserError, match=rf"{file}: .*dvc repro"):
        sample("--seeds", "0")
    assert not (folder / "samples").exists()


def test_a_link_to_a_network_is_compared_where_the_link_is(project, tmp_path):
    """As DVC puts links to its cache in a project, if it is set so."""
    folder = project()
    (folder / NETWORK).rename(tmp_path / "cached")
    (folder / NETWORK).symlink_to(tmp_path / "cached")
    sample("--seeds", "0")
    flip(tmp_path / "cached")
    with pytest.raises(UserError, match=NETWORK):
        sample("--seeds", "0")


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
