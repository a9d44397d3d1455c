"""The command that makes images of one network."""

import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, write_params

from edm2.params import UserError, load
from edm2.runtime.manifest import read_manifest
from stages import sample, sample_folder
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


def test_the_first_seed_takes_the_first_label():
    given = sample.parser().parse_args([NETWORK, "--seeds", "5-9", "--labels", "4,1,2"])
    assert sample_folder.labels_of(given, None, [5, 6, 7, 8]).tolist() == [4, 1, 2, 4]
    assert sample_folder.labels_of(given, None, [8]).tolist() == [4]


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
    monkeypatch.setattr(sample_folder, "SHARD", 3)
    whole, shared, made = folder / "whole", folder / "shared", Counter()
    run("--seeds", "5-17", "--format", kind, "--out", "whole")
    given = sample.parser().parse_args(
        [NETWORK, "--seeds", "5-17", "--format", kind, "--out", "shared"]
    )
    sampler = Sampler(load("params.yaml").of("G"), "G", torch.device("cpu"))
    denoise = sampler.denoise(folder / NETWORK, None, 1.0)
    shared.mkdir()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        before = {path: path.stat().st_mtime_ns for path in shared.iterdir()}
        {"png": sample_folder.write_files, "shards": sample_folder.write_shards}[kind](
            given, sampler, denoise
        )
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


@pytest.mark.parametrize(
    ("kind", "said"), [("png", "sample: 3/3 img"), ("shards", "samples-000000004: 3/3 img")]
)
def test_progress_is_told(project, monkeypatch, capsys, kind, said):
    """Of images that are made; those that were there are none of it."""
    project()
    monkeypatch.setattr("edm2.runtime.progress.SECONDS_WORTH_A_LINE", -1)
    if kind == "png":
        run("--seeds", "4-5")
    run("--seeds", "4-8" if kind == "png" else "4-6", "--format", kind)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_shard_leaves_nothing_and_is_made_again(
    project, monkeypatch, capsys, signum
):
    """A scheduler's SIGTERM as well as Ctrl-C."""
    folder, made = project(), sample_folder.made
    monkeypatch.setattr(sample_folder, "SHARD", 2)
    monkeypatch.setattr(sys, "argv", ["sample", NETWORK, "--seeds", "0-3", "--format", "shards"])

    def interrupted(given, sampler, denoise, seeds):
        for seed, image, label in made(given, sampler, denoise, seeds):
            if seed == 3:
                os.kill(os.getpid(), signum)
            yield seed, image, label

    before = signal.getsignal(signal.SIGTERM)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sample_folder, "made", interrupted)
            assert sample.main() == 130
        assert "run the same again to continue" in capsys.readouterr().err
        found = {path.name for path in (folder / "samples").iterdir()}
        assert found == {"samples.json", "samples-000000000.tar"}
        assert sample.main() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(names_in(folder / "samples/samples-000000002.tar")) == 4


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


OTHER = NETWORK.replace("0.1.", "0.2.")


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["--strength", "0"], {}, "strength"),
        (["--guide", OTHER], {}, "networks"),
        (["--config", "F"], {}, "config"),
        ([], {"guidance.interval": [0.3, 4.0]}, "interval"),
        ([], {"sampling.steps": 4}, "sampling"),
        ([], {"runtime.precision": "bf16"}, "precision"),
    ],
)
def test_all_that_images_follow_from_is_held_against_the_folder(project, words, changes, said):
    guidance = {"guidance.guide": "snapshot", "guidance.nimg": 512, "guidance.interval": [0.3, 5.0]}
    folder = project()
    write_params(folder / "params.yaml", {**TINY, **guidance})
    asked = ["--seeds", "0", "--guide", NETWORK, "--strength", "1.5"]
    params = load("params.yaml").of("G")
    sample_folder.claim(sample.parser().parse_args([NETWORK, *asked]), params)
    sample_folder.claim(sample.parser().parse_args([NETWORK, *asked]), params)
    write_params(folder / "params.yaml", {**TINY, **guidance, **changes})
    given = sample.parser().parse_args([NETWORK, *asked, *words])
    with pytest.raises(UserError, match=rf"\({said} differ\)"):
        sample_folder.claim(given, load("params.yaml").of("G"))


def test_what_cannot_be_is_told(project, capsys):
    project()
    with pytest.raises(UserError, match="--labels 10: expected classes below 10"):
        run("--labels", "10")
    with pytest.raises(UserError, match=r"expected a network of models/sweep"):
        run(network="params.yaml")
    with pytest.raises(SystemExit):
        sample.parser().parse_args([NETWORK, "--seeds", "9-3"])
    assert "'9-3': expected numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guide", NETWORK], f"--guide {NETWORK}: at strength 1 it changes nothing"),
        (
            ["--strength", "2"],
            "--strength 2: expected --guide, or .* diffusion.label_dropout above 0",
        ),
    ],
)
def test_guidance_that_guides_nothing_is_refused(project, words, said):
    project()
    with pytest.raises(UserError, match=said):
        run(*words)


def test_a_network_without_labels_takes_none(project):
    project(diffusion__conditional=False)
    with pytest.raises(UserError, match="--labels: .* diffusion.conditional is false"):
        run("--labels", "1")
    with pytest.raises(UserError, match="--strength 2: expected --guide"):
        run("--strength", "2")


def test_a_network_trained_to_do_without_labels_guides_itself(project):
    folder = project(diffusion__label_dropout=0.1)
    run("--seeds", "0", "--strength", "2")
    run("--seeds", "0", "--out", "plain")
    assert (folder / "samples/000000000.png").read_bytes() != (
        folder / "plain/000000000.png"
    ).read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["--strength", "nan"],
        ["--strength", "inf"],
        ["--strength", "-1"],
        ["--strength", "much"],
        ["--seeds", "3,4,3"],
        ["--seeds", "0-99999999999999999999"],
        ["--seeds", "-1"],
    ],
)
def test_words_that_mean_nothing_are_told(words, capsys):
    with pytest.raises(SystemExit):
        sample.parser().parse_args([NETWORK, *words])
    assert f"'{words[1]}': expected" in capsys.readouterr().err


def test_a_network_that_is_not_there_takes_no_folder(project):
    """The right one may have it."""
    folder = project()
    for network in (NETWORK.replace("0.1.", "0.7."), "params.yaml"):
        with pytest.raises(UserError, match="expected a network of models/sweep"):
            run(network=network)
    assert not (folder / "samples").exists()
    run("--seeds", "0")


def test_images_of_another_codec_are_not_mixed_in(project):
    folder = project()
    run("--seeds", "0")
    for path in (folder / "models/vae/manifest.json", folder / "data/latents/manifest.json"):
        before = path.read_text()
        path.write_text(before + "\n")
        with pytest.raises(UserError, match=r"\((codec|latents) differ\)"):
            run("--seeds", "0")
        path.write_text(before)
    run("--seeds", "0")


def test_what_shapes_no_image_keeps_no_one_from_going_on(project):
    folder = project()
    run("--seeds", "0")
    changes = {
        "guidance.strength": [1.0, 2.0],
        "guidance.guide": "snapshot",
        "guidance.nimg": 512,
        "guidance.interval": [0.3, 5.0],
        "sampling.batch": 7,
    }
    write_params(folder / "params.yaml", {**TINY, **changes})
    run("--seeds", "0-1")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("samples", "a file"),
        ("samples/samples.json", "{"),
        ("samples/samples.json", "3"),
        ("samples/000000000.png", "of another tool"),
    ],
)
def test_what_is_no_folder_of_samples_is_left_alone(project, file, content):
    path = project() / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match="--out samples: .* Name another folder"):
        run("--seeds", "0")
    assert path.read_text() == content


def test_the_grid_has_the_first_classes_and_the_first_seeds_of_each(project, monkeypatch):
    """However many classes there are."""
    monkeypatch.setattr(sample_folder, "SHOWN", 2)
    seen = {}

    def keep(path, images, labels, classes):
        seen[path.name] = images, labels

    monkeypatch.setattr(sample_folder, "write_class_grid", keep)
    folder = project()
    run("--seeds", "3-30")
    images, labels = seen["grid.png"]
    assert labels.tolist() == [0, 0, 1, 1]
    for image, seed in zip(images, (10, 20, 11, 21), strict=True):
        assert np.array_equal(image.permute(1, 2, 0), picture(folder / f"samples/{seed:09d}.png"))


def test_the_command_of_the_room(project):
    folder = project()
    done = subprocess.run(
        [sys.executable, "-m", "edm2.sampling", NETWORK, "--seeds", "0"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "samples/000000000.png").exists()
    wrong = subprocess.run(
        [sys.executable, "-m", "edm2.sampling", "nothing", "--seeds", "1"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert wrong.returncode == 2
    assert "sample: " in wrong.stderr
    assert "Traceback" not in wrong.stderr
