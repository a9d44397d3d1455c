"""A folder of images: what is read, what is left out and why, and what is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import FEW_BITS
from edm2.data.preparation import prepare_images
from edm2.data.sources import FileSource, FolderImages
from edm2.data.sources.folder import TWICE
from edm2.data.tally import FOREIGN, NOT_AN_IMAGE
from edm2.params import UserError
from edm2.params.dataset import Dataset
from edm2.pipeline.preparation import summary

RED = Image.new("RGB", (6, 6), "red")


def Folder(root: Path, resolution: int, crop: str) -> FileSource:
    return FileSource(FolderImages(root), resolution, crop)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Classes a and b of two images each."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        save(tmp_path / "images" / name)
    return tmp_path / "images"


def save(path: Path, kind: str = "png") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    RED.save(path, kind)


def names(folder: FileSource, root: Path) -> list[str]:
    """Names relative to the root; read from messages, which have them in full."""
    return [name_of(folder, k).removeprefix(f"{root}/") for k in range(len(folder.labels))]


def name_of(folder: FileSource, index: int) -> str:
    return folder.parts[0].name(index)


def test_nothing_is_left_out_of_a_plain_folder(root: Path) -> None:
    folder = Folder(root, 4, "lanczos")
    assert names(folder, root) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    assert not folder.left_out.counts


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("3.gif", "gif"),
        ("3.jfif", "jpeg"),
        ("3.avif", "avif"),
        ("3.jp2", "jpeg2000"),
        ("3.ppm", "ppm"),
        ("3.TIFF", "tiff"),
        ("3", "jpeg"),
        ("photo.v2", "png"),
        ("3.dat", "webp"),
    ],
)
def test_images_are_read_whatever_their_ending(root: Path, name: str, kind: str) -> None:
    save(root / "a" / name, kind)
    folder = Folder(root, 4, "lanczos")
    index = names(folder, root).index(f"a/{name}")
    assert np.abs(folder.image(index).astype(int) - [255, 0, 0]).max() < 16
    assert not folder.left_out.counts


def note(path: Path) -> None:
    path.write_text("not an image")


FOREIGN_NAMES = ("._000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png")
FOREIGN_FOLDERS = (".thumbnails", "__MACOSX", ".git", "@eaDir", ".ipynb_checkpoints")


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_files_of_other_programs_are_left_out(root: Path, name: str) -> None:
    save(root / "a" / name)
    assert Folder(root, 4, "lanczos").left_out.examples == {FOREIGN: [f"a/{name}"]}


@pytest.mark.parametrize("above", ["", "a/"])
@pytest.mark.parametrize("name", FOREIGN_FOLDERS)
def test_folders_of_other_programs_are_left_out(root: Path, name: str, above: str) -> None:
    save(root / above / name / "1.png")
    folder = Folder(root, 4, "lanczos")
    assert folder.classes == ["a", "b"]
    assert len(folder.labels) == 4
    assert folder.left_out.examples == {FOREIGN: [f"{above}{name}"]}


def test_everything_that_is_not_read_has_a_reason(root: Path) -> None:
    save(root / "loose.jpg", "jpeg")
    note(root / "readme.md")
    note(root / "a/notes.txt")
    note(root / "a/IMG_1.HEIC")
    (root / "b/zz.jpg").symlink_to("../../nowhere/xyz.jpg")
    (root / "b/loop").symlink_to("loop")
    (root / "b/up").symlink_to("..")
    os.mkfifo(root / "b/pipe.png")
    folder = Folder(root, 4, "lanczos")
    assert len(folder.labels) == 4
    assert folder.left_out.counts.total() == 8
    assert folder.left_out_per_class == [2, 4]
    examples = {
        name: reason for reason, names in folder.left_out.examples.items() for name in names
    }
    assert examples["readme.md"] == examples["a/notes.txt"] == NOT_AN_IMAGE
    for name, word in {
        "loose.jpg": "no class",
        "a/IMG_1.HEIC": "converted to JPEG",
        "b/zz.jpg": "not exist",
        "b/loop": "cannot be opened",
        "b/up": "contains it",
        "b/pipe.png": "neither",
    }.items():
        assert word in examples[name]


def test_a_folder_that_cannot_be_opened_is_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not hold for root, so the error is made."""
    save(root / "a/locked/3.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    folder = Folder(root, 4, "lanczos")
    assert folder.left_out.examples == {
        "folder that cannot be opened (Permission denied)": ["a/locked"]
    }


def test_linked_folders_are_entered(root: Path) -> None:
    save(root.parent / "elsewhere/3.png")
    (root / "a/more").symlink_to(root.parent / "elsewhere")
    (root / "c").symlink_to(root / "b")
    folder = Folder(root, 4, "lanczos")
    assert folder.classes == ["a", "b", "c"]
    assert "a/more/3.png" in names(folder, root)
    assert folder.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert not folder.left_out.counts
    assert list(folder.doubtful.examples.items()) == [(TWICE, ["c is b"])]


def splits(root: Path) -> str:
    for split in ("train", "val"):
        save(root / split / "cat/1.png")
    for name in "ab":
        shutil.rmtree(root / name)
    return str(root / "train")


def splits_beside_others(root: Path) -> str:
    save(root / "Test/1.png")
    save(root / "Train/1.png")
    return str(root / "Train")


def single_split(root: Path) -> str:
    for name in "ab":
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
    return str(root / "train")


def splits_with_years(root: Path) -> str:
    (root / "a").rename(root / "train2017")
    (root / "b").rename(root / "val2017")
    return str(root / "train2017")


@pytest.mark.parametrize("arrange", [splits, splits_beside_others, single_split, splits_with_years])
def test_splits_are_no_classes(root: Path, arrange: Callable[[Path], str]) -> None:
    way_out = arrange(root)
    with pytest.raises(UserError, match="dataset.path") as error:
        Folder(root, 4, "lanczos")
    assert f"Set dataset.path to {way_out};" in str(error.value)


def test_splits_without_classes_need_these_first(root: Path) -> None:
    path = splits_with_years(root)
    with pytest.raises(UserError) as error:
        Folder(root, 4, "lanczos")
    assert "into a subfolder per class" in str(error.value)
    (root / "train2017/all").mkdir()
    for k in (1, 2):
        (root / f"train2017/{k}.png").rename(root / f"train2017/all/{k}.png")
    assert Folder(Path(path), 4, "lanczos").classes == ["all"]


def test_classes_that_may_be_further_below_give_a_warning(root: Path) -> None:
    for name in "ab":
        (root / "data/set").mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / "data/set" / name)
    folder = Folder(root, 4, "lanczos")
    assert folder.classes == ["data"]
    (warning,) = folder.doubtful.lines()
    assert (
        f"in folders (a, b); if these are the classes, set dataset.path to {root}/data/set"
        in warning
    )
    save(root / "data/set/1.png")
    assert not Folder(root, 4, "lanczos").doubtful.counts


def test_a_class_may_have_the_name_of_a_split(root: Path) -> None:
    (root / "a").rename(root / "train")
    assert Folder(root, 4, "lanczos").classes == ["b", "train"]


def test_all_small_classes_are_named_with_what_is_left_out(root: Path) -> None:
    for name in "cd":
        note(root / "readme.md")
        save(root / name / "1.png")
    (root / "e").mkdir()
    note(root / "e/1.txt")
    with pytest.raises(UserError) as error:
        Folder(root, 4, "lanczos")
    message = str(error.value)
    assert all(str(root / name) in message for name in "cde")
    assert not any(f"{root / name}:" in message for name in "ab")
    assert "e/1.txt" in message


def test_a_class_name_that_is_not_utf8_is_refused_at_once(root: Path) -> None:
    os.rename(root / "a", os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(UserError) as error:
        Folder(root, 4, "lanczos")
    assert r"b'caf\xe9'" in str(error.value)
    str(error.value).encode()


def test_class_names_are_utf8_in_any_locale(root: Path) -> None:
    (root / "a").rename(root / "café")
    code = "import sys; from pathlib import Path; from edm2.data.sources import FolderImages; "
    code += "print(ascii(FolderImages(Path(sys.argv[1])).classes))"
    locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(root)]
    printed = subprocess.run(command, env=locale, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == ascii(["b", "café"])


def test_file_names_that_are_not_utf8_are_read_and_printable(root: Path) -> None:
    for name, content in {
        b"caf\xe9.png": b"damaged",
        b"\xe9.png": (root / "a/1.png").read_bytes(),
        b"\xe9.txt": b"not an image",
    }.items():
        Path(os.fsdecode(os.fsencode(root / "a") + b"/" + name)).write_bytes(content)
    folder = Folder(root, 4, "lanczos")
    assert [folder.image(k).shape for k in (0, 1, 3, 4, 5)] == [(4, 4, 3)] * 5
    assert r"a/\xe9.txt" in summary(folder)[-1]
    with pytest.raises(UserError) as error:
        folder.image(2)
    assert r"caf\xe9.png" in str(error.value)


def test_the_summary_counts_by_class_and_reason(root: Path) -> None:
    save(root / "b/3.png")
    for k in range(4):
        note(root / f"a/{k}.txt")
    assert summary(Folder(root, 4, "lanczos")) == [
        "5 images are read, 4 files or folders are left out",
        "  class a: 2 images, 4 left out",
        "  class b: 3 images",
        f"  left out: 4 {NOT_AN_IMAGE}: a/0.txt, a/1.txt, a/2.txt, ...",
    ]


def test_one_run_names_all_damaged_images_and_keeps_whole_shards(
    root: Path, dataset: Dataset, tmp_path: Path
) -> None:
    for k in range(3, 9):
        save(root / f"a/{k}.png")
    damaged = [root / name for name in ("a/3.png", "a/5.png", "b/2.png")]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:50])
    single = dataset.model_copy(update={"shard_images": 1})
    folder = Folder(root, 8, "lanczos")
    with pytest.raises(UserError) as error:
        prepare_images(folder, tmp_path / "out", single, seed=0, workers=0)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("3 of 10 images")
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [str(path) for path in damaged]
    assert len(list((tmp_path / "out").glob("*.tar"))) == len(folder.labels) - 3
    for path in damaged:
        save(path)
    prepare_images(Folder(root, 8, "lanczos"), tmp_path / "out", single, seed=0, workers=0)
    assert len(list((tmp_path / "out").glob("*.tar"))) == len(folder.labels)


def test_a_shard_of_several_images_is_not_written_if_one_is_damaged(
    root: Path, dataset: Dataset, tmp_path: Path
) -> None:
    (root / "a/2.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 4 images"):
        prepare_images(Folder(root, 8, "lanczos"), tmp_path / "out", dataset, seed=0, workers=0)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1


def test_images_that_are_nearly_black_are_counted(root: Path) -> None:
    gray = np.full((6, 6), 255, dtype=np.uint16)
    for name in ("a/1.png", "b/1.png"):
        Image.fromarray(gray).save(root / name)
    folder = Folder(root, 4, "lanczos")
    for index in range(len(folder.labels)):
        folder.image(index)
    assert folder.doubtful.examples == {FEW_BITS: [f"{root}/a/1.png", f"{root}/b/1.png"]}
