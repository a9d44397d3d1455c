"""Images of no class: which files are read, in which order, and what is said of the others."""

import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from edm2.data.sources.unlabeled import open_unlabeled
from edm2.params import UserError

NAMES = ("a/1.png", "a/b/0.png", "c.png")


@pytest.fixture
def folder(tmp_path):
    for value, name in enumerate(NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    (tmp_path / "images/notes.txt").write_text("mine")
    (tmp_path / "images/.hidden.png").write_text("mine")
    return tmp_path / "images"


def opened(path, tmp_path):
    return open_unlabeled(str(path), "IMAGES", tmp_path / "indices")


def values(files):
    """The value of each image, which is its place in NAMES."""
    return [files.decode(k, files.doubtful).getpixel((0, 0))[0] for k in range(len(files.labels))]


def test_folders_and_zips_are_read_by_name_and_tars_in_their_order(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("notes.txt", *reversed(NAMES)):
            archive.write(folder / name, name)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("notes.txt", *reversed(NAMES)):
            archive.add(folder / name, name)
    assert values(opened(folder, tmp_path)) == [0, 1, 2]
    assert values(opened(tmp_path / "x.zip", tmp_path)) == [0, 1, 2]
    assert values(opened(tmp_path / "x.tar", tmp_path)) == [2, 1, 0]


def test_what_is_not_read_is_counted(folder, tmp_path):
    (folder / "samples.json").write_text("{}")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "grid.png")
    files = opened(folder, tmp_path)
    assert values(files) == [0, 1, 2]
    examples = {name for names in files.left_out.examples.values() for name in names}
    assert examples == {"notes.txt", ".hidden.png", "grid.png"}
    (folder / "samples.json").unlink()
    assert len(opened(folder, tmp_path).labels) == 4  # an image like others


def test_images_that_a_link_leads_to_twice_are_doubtful(folder, tmp_path):
    (folder / "link").symlink_to(folder / "a")
    files = opened(folder, tmp_path)
    assert files.doubtful.counts == {files.about_folders_read_twice: 2}  # a and a/b
    assert len(files.labels) == 5


def test_places_without_images_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("mine")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/x.tar", "w") as archive:
        archive.add(folder / "c.png", "c.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(folder / "notes.txt", "notes.txt")
    for name, words in {
        "empty": ("no images", "notes.txt"),
        "tars": ("tars/*.tar",),
        "x.zip": ("no images", "notes.txt"),
        "missing": ("expected a folder",),
        "images/c.png": ("expected a folder", "is a file"),
        "x-{0..1.tar": ("braces",),
    }.items():
        with pytest.raises(UserError) as error:
            opened(tmp_path / name, tmp_path)
        for word in ("IMAGES", name, *words):
            assert word in str(error.value)
