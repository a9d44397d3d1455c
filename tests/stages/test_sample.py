"""The command that makes images of one network."""

import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from edm2.params import UserError, load
from edm2.runtime.manifest import read_manifest
from stages import sample
from stages.sampler import Sampler

NETWORK = "models/sweep/G/000000001024-sigma_rel-0.1.safetensors"


def run(*words, network=NETWORK):
    given = sample.parser().parse_args([network, *words])
    sample.sample(given, load("params.yaml").of("G"))
    return given.out


def names_in(shard):
    with tarfile.open(shard) as tar:
        return tar.getnames()


def picture(path):
    return np.array(Image.open(path))


def test_images_are_those_of_their_seeds(project):
    """Whatever the batch, the order, and what was there before."""
    folder = project()
    assert NETWORK.rpartition("/")[2] in {
        n["file"] for n in read_manifest(folder / "models/sweep/G")["networks"]
    }
    run("--seeds", "0-39")
    (folder / "samples/000000000007.png").unlink(missing_ok=True)
    (folder / "samples/000000007.png").unlink()
    before = picture(folder / "samples/000000003.png")
    run("--seeds", "7,3,44")
    sampler = Sampler(load("params.yaml").of("G"), "G", torch.device("cpu"))
    denoise = sampler.denoise(folder / NETWORK, None, 1.0)
    ((_, images),) = sampler.images(denoise, [7, 44], sampler.labels_of)
    for seed, image in zip((7, 44), images, strict=True):
        found = picture(folder / f"samples/{seed:09d}.png").astype(int)
        assert np.abs(found - image.permute(1, 2, 0).numpy()).max() <= 1
    assert np.array_equal(picture(folder / "samples/000000003.png"), before)
    assert (folder / "samples/grid.png").exists()


def test_labels_are_taken_in_turn(project):
    folder = project()
    run("--seeds", "0-3", "--labels", "3", "--out", "threes")
    run("--seeds", "0-9", "--out", "all")
    same = picture(folder / "threes/000000003.png") == picture(folder / "all/000000003.png")
    other = picture(folder / "threes/000000002.png") == picture(folder / "all/000000002.png")
    assert same.mean() > 0.99  # seed 3 has class 3 either way
    assert not other.all()


def test_shards_hold_the_same_images(project):
    folder = project()
    run("--seeds", "0-4", "--out", "files")
    run("--seeds", "0-4", "--out", "tars", "--format", "shards")
    shard = folder / "tars/samples-000000000.tar"
    assert sorted(names_in(shard)) == [f"{s:09d}.{e}" for s in range(5) for e in ("cls", "png")]
    with tarfile.open(shard) as tar:
        inside = picture(tar.extractfile("000000002.png"))
    assert np.array_equal(inside, picture(folder / "files/000000002.png"))


@pytest.mark.parametrize("kind", ["png", "shards"])
def test_ranks_share_the_files(project, monkeypatch, kind):
    """Each is made by one rank, whatever another has written meanwhile; images are as without ranks."""
    folder = project()
    monkeypatch.setattr(sample, "SHARD", 3)
    whole, shared, made = folder / "whole", folder / "shared", Counter()
    run("--seeds", "5-17", "--format", kind, "--out", "whole")
    given = sample.parser().parse_args(
        [NETWORK, "--seeds", "5-17", "--format", kind, "--out", "shared"]
    )
    sampler = Sampler(load("params.yaml").of("G"), "G", torch.device("cpu"))
    shared.mkdir()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        before = {path: path.stat().st_mtime_ns for path in shared.iterdir()}
        {"png": sample.write_files, "shards": sample.write_shards}[kind](given, sampler)
        after = {path: path.stat().st_mtime_ns for path in shared.iterdir()}
        made.update(path.name for path, time in after.items() if before.get(path) != time)
        assert len(made) >= 2
    expected = {path.name: path for path in whole.iterdir() if path.suffix in (".png", ".tar")}
    expected.pop("grid.png", None)
    assert dict(made) == dict.fromkeys(expected, 1)
    for name, path in expected.items():
        if kind == "png":
            difference = picture(path).astype(int) - picture(shared / name)
            assert np.abs(difference).max() <= 1
        else:
            assert names_in(path) == names_in(shared / name)


def test_shards_of_other_seeds_are_refused(project):
    """The last shard would be taken for whole."""
    project()
    run("--seeds", "0-4", "--format", "shards")
    with pytest.raises(UserError, match="seeds differ"):
        run("--seeds", "0-6", "--format", "shards")


def test_a_folder_never_mixes_two_kinds_of_images(project):
    project()
    run("--seeds", "0-1")
    with pytest.raises(UserError, match=r"--out samples: .*\(labels, seeds differ\)"):
        run("--seeds", "0-1", "--labels", "1")
    with pytest.raises(UserError, match="networks differ"):
        run("--seeds", "0-1", network=NETWORK.replace("0.1.", "0.2."))


def test_what_cannot_be_is_told(project, capsys):
    project()
    with pytest.raises(UserError, match="--labels 10: expected classes below 10"):
        run("--labels", "10")
    with pytest.raises(UserError, match=r"expected a network of models/sweep"):
        run(network="params.yaml")
    with pytest.raises(SystemExit):
        sample.parser().parse_args([NETWORK, "--seeds", "9-3"])
    assert "'9-3': expected numbers" in capsys.readouterr().err


def test_the_command_of_the_room(project):
    folder = project()
    done = subprocess.run([sys.executable, "-m", "edm2.sampling", NETWORK, "--seeds", "0"],
                          capture_output=True, text=True, cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "samples/000000000.png").exists()
    wrong = subprocess.run([sys.executable, "-m", "edm2.sampling", "nothing", "--seeds", "1"],
                           capture_output=True, text=True, cwd=folder)  # fmt: skip
    assert wrong.returncode == 2
    assert "sample: " in wrong.stderr
    assert "Traceback" not in wrong.stderr
