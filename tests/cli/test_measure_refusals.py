"""`edm2 measure`: what is refused, left out or marked, and named."""

from pathlib import Path

import numpy as np
import pytest
from color_images import pixels, png, write_folder

pytestmark = pytest.mark.usefixtures("measuring")


def test_images_of_another_size_than_the_reference_are_refused(run, fake, tmp_path):
    large = write_folder(tmp_path / "large", pixels(30, 1, (8, 8)))
    run("measure", "reference", large, "--detector", "colors", "--out", "large.npz")
    for reference in (large, "large.npz"):
        result = run("measure", fake, "--reference", reference, "--detector", "colors")
        assert result.status == 2
        for words in (str(fake), "6×6", "8×8", "--resize 8"):
            assert words in result.err


def test_all_damaged_images_are_named_and_nothing_is_written(run, fake, real):
    for name in ("a/000.png", "b/010.png"):
        (fake / name).write_bytes(b"no image")
    options = ("--reference", real, "--detector", "colors", "--out", "values.csv")
    result = run("measure", fake, *options)
    assert result.status == 2
    for words in ("2 of 30 images", "a/000.png", "b/010.png"):
        assert words in result.err
    assert not Path("values.csv").exists()


def test_images_that_are_all_damaged_have_no_size(run, real, tmp_path):
    (tmp_path / "bad").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "bad" / name).write_bytes(b"no image")
    result = run("measure", "bad", "--reference", real, "--detector", "colors")
    assert result.status == 2
    for words in ("none of its 2 images", "1.png", "2.png"):
        assert words in result.err


def test_what_is_left_out_is_named(run, fake, real):
    (fake / "notes.txt").write_text("mine")
    (fake / "samples.json").write_text("{}")
    (fake / "grid.png").write_bytes(png(pixels(1, 0, (40, 40))[0]))
    result = run("measure", fake, "--reference", real, "--detector", "colors")
    assert result.status == 0, result.err
    assert "notes.txt" in result.err
    assert "grid.png" in result.err
    assert "fd_colors_30" in result.out


def test_singular_covariances_are_refused_or_marked(run, fake, real):
    options = ("--reference", real, "--detector", "colors", "--samples", 3)
    result = run("measure", fake, *options)
    assert result.status == 2
    for words in ("3 images", "at least 4", "--allow-singular"):
        assert words in result.err
    allowed = run("measure", fake, *options, "--allow-singular")
    assert allowed.status == 0
    assert "fd_colors_3: " in allowed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fake", "--detector", "colors"), ("--metrics fd", "--reference")),
        (("fake", "--reference", "real", "--detector", "color"), ("--detector color", "colors")),
        (("fake", "--reference", "real", "--metrics", "fid"), ("--metrics fid", "kid")),
        (("fake", "--metrics", "is", "--detector", "colors"), ("--metrics is", "inception")),
        (("fake", "--reference", "no.npz", "--detector", "colors"), ("--reference", "no.npz")),
        (("fake", "--reference", "no", "--detector", "colors"), ("--reference", "no")),
        (("fake", "--reference", "no.pkl"), ("--reference no.pkl: no such file",)),  # no download
        (("none", "--reference", "real", "--detector", "colors"), ("IMAGES", "none")),
        (("fake", "--reference", "real", "--detector", "colors", "--samples", "31"), ("30",)),
        (("fake", "--reference", "real", "--device", "gpu"), ("--device gpu", "cuda")),
        (("fake", "--reference", "real", "--out", "x.txt"), ("x.txt", ".json", ".csv")),
        (("fake", "--reference", "real", "--out", "there.csv"), ("there.csv", "exists")),
        (("reference", "real", "--out", "x.pkl"), ("x.pkl", ".npz")),
        (("fake", "--reference", "real", "--detector", "classifier"), ("classifier", "project")),
        (("fake", "--reference", "real", "--detector-path", "x.pth"), ("x.pth", "no such file")),
        (("fake", "--reference", "real", "--detector-path", "dinov2=x"), ("dinov2=x", "NAME=FILE")),
    ],
)
def test_wrong_requests(run, fake, real, arguments, words):
    Path("there.csv").write_text("mine")
    result = run("measure", *arguments)
    assert result.status == 2
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err
    assert Path("there.csv").read_text() == "mine"


def test_one_image_makes_no_reference(run, tmp_path):
    folder = write_folder(tmp_path / "one", pixels(1, 0))
    result = run("measure", "reference", folder, "--detector", "colors", "--out", "one.npz")
    assert result.status == 2
    assert str(folder) in result.err
    assert not Path("one.npz").exists()


def test_ctrl_c_leaves_no_file(run, real, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    before = set(Path().iterdir())
    result = run("measure", "reference", real, "--detector", "colors", "--out", "real.npz")
    assert result.status == 130
    assert set(Path().iterdir()) == before
