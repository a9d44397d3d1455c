"""Held-out images with a path of their own, and class names from a file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.sources import FileSource, FolderImages
from edm2.params import UserError
from edm2.pipeline.preparation import summary


def save(path: Path, gray: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (gray, gray, gray)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training images of classes n1, n2 (gray 0), and held-out ones (gray 9): five and three."""
    for name in ("n1/0", "n1/1", "n2/0", "n2/1", "n2/2"):
        save(tmp_path / f"train/{name}.png")
    for name in ("n1/0", "n2/0", "n2/1"):
        save(tmp_path / f"val/{name}.png", 9)
    return tmp_path


def opened(root: Path, names: str | None = None, held_out: bool = True) -> FileSource:
    if names is not None:
        (root / "names.txt").write_text(names, encoding="utf-8")
    return FileSource(
        FolderImages(root / "train"),
        4,
        "lanczos",
        FolderImages(root / "val", "dataset.held_out_path") if held_out else None,
        None if names is None else root / "names.txt",
    )


def error_of(root: Path, names: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        opened(root, names)
    return str(error.value)


def test_held_out_images_are_those_of_the_second_folder(root: Path) -> None:
    source = opened(root)
    assert source.classes == ["n1", "n2"]
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 0, 1, 1]
    splits = [source.split(None, seed) for seed in range(5)]
    for train, held_out in splits:
        assert (sorted(train), sorted(held_out)) == ([0, 1, 2, 3, 4], [5, 6, 7])
        assert all(source.image(index).max() == 0 for index in train)
        assert all(source.image(index).min() == 9 for index in held_out)
    assert all(len({tuple(part) for part in parts}) > 1 for parts in zip(*splits, strict=True))


def test_the_split_is_the_same_each_time(root: Path) -> None:
    first, again = (opened(root).split(None, 3) for _ in range(2))
    assert [part.tolist() for part in first] == [part.tolist() for part in again]


def test_identity_changes_with_the_held_out_images_and_the_names(root: Path) -> None:
    before = opened(root).identity()
    save(root / "val/n1/5.png")
    after = opened(root).identity()
    named = [opened(root, f"n1 {name}\nn2 b\n").identity() for name in "ac"]
    assert len({before, after, *named}) == 4


def test_one_image_is_enough_for_a_class_that_holds_out_none(root: Path) -> None:
    (root / "train/n1/1.png").unlink()
    assert opened(root).labels[:2].tolist() == [0, 1]
    (root / "val/n1/0.png").unlink()
    assert f"dataset.held_out_path: {root}/val/n1" in error_of(root)


def test_both_differences_of_the_classes_are_listed(root: Path) -> None:
    save(root / "train/n3/0.png")
    save(root / "val/n4/0.png")
    save(root / "val/n5/0.png")
    lines = error_of(root).splitlines()
    assert [line.strip() for line in lines[1:]] == [
        "only in dataset.path: n3",
        "only in dataset.held_out_path: n4",
        "only in dataset.held_out_path: n5",
    ]


def test_linked_folders_are_not_trained_on_and_held_out(root: Path) -> None:
    (root / "val/n1/more").symlink_to(root / "train/n1")
    with pytest.raises(UserError, match="dataset.held_out_path: .* trained on") as error:
        opened(root)
    assert str(error.value).splitlines()[1:] == ["  n1/more is n1"]


def test_flat_validation_images_are_told_how_to_lie(root: Path) -> None:
    for k in range(3):
        (root / f"val/{('n1/0', 'n2/0', 'n2/1')[k]}.png").rename(root / f"val/ILSVRC_{k}.png")
    for name in ("n1", "n2"):
        (root / "val" / name).rmdir()
    message = error_of(root)
    assert f"dataset.held_out_path: {root}/val" in message
    assert "3 images in no class folder" in message
    assert "subfolder" in message
    assert "only in" not in message


def test_problems_of_both_folders_are_in_one_error(root: Path) -> None:
    save(root / "train/train/x/0.png")
    save(root / "train/test/x/0.png")
    (root / "val/n1/0.png").unlink()
    message = error_of(root)
    assert f"dataset.path: {root}/train: " in message
    assert f"dataset.held_out_path: {root}/val/n1: " in message


def test_names_of_classes(root: Path) -> None:
    assert opened(root, "n2 goldfish\nn1\ttench, Tinca tinca\n\n").classes == [
        "tench, Tinca tinca",
        "goldfish",
    ]


def test_a_tab_ends_names_with_spaces(root: Path) -> None:
    (root / "train/n2").rename(root / "train/red fox")
    source = opened(root, "red fox\tVulpes vulpes\nn1 tench\n", held_out=False)
    assert source.classes == ["tench", "Vulpes vulpes"]


def test_names_that_occur_twice_are_told_apart(root: Path) -> None:
    assert opened(root, "n1 crane\nn2 crane\n").classes == ["crane (n1)", "crane (n2)"]


def test_all_names_that_do_not_fit_are_listed(root: Path) -> None:
    save(root / "train/n3/0.png")
    save(root / "val/n3/0.png")
    message = error_of(root, "n1 tench\nn1 again\n\nn2\nn7 seven\n")
    for part in (
        "line 2 repeats n1",
        "line 3 has no name",
        "line 4 has no name",
        "no name for: n3",
        "no class of that name: n7",
    ):
        assert part in message


def test_names_that_are_not_utf8_are_refused(root: Path) -> None:
    (root / "names.txt").write_bytes(b"n1 caf\xe9\nn2 b\n")
    with pytest.raises(UserError, match=r"names\.txt: byte 6"):
        FileSource(FolderImages(root / "train"), 4, "lanczos", None, root / "names.txt")


class Numbered(FolderImages):
    """Folders whose names are label numbers."""

    numbered = True


def test_names_by_number_are_whole_lines(root: Path) -> None:
    for old, new in (("n1", "0"), ("n2", "1")):
        (root / "train" / old).rename(root / "train" / new)
    names = root / "names.txt"
    names.write_text("red fox\nblue whale\n")
    source = FileSource(Numbered(root / "train"), 4, "lanczos", None, names)
    assert source.classes == ["red fox", "blue whale"]
    for text, part in (("red fox\n", "no name for: 1"), ("a\n\nc\n", "line 2 is empty")):
        names.write_text(text)
        with pytest.raises(UserError, match=part):
            FileSource(Numbered(root / "train"), 4, "lanczos", None, names)


def test_the_summary_counts_what_is_held_out(root: Path) -> None:
    (root / "val/n2/notes.txt").write_text("no image")
    lines = summary(opened(root))
    assert lines[0].startswith("8 images are read (3 of them are held out), 1 ")
    assert lines[1:3] == ["  class n1: 3 images", "  class n2: 5 images, 1 left out"]


def test_many_classes_are_summarized(root: Path) -> None:
    for k in range(28):
        for image in range(2):
            save(root / f"train/m{k:02d}/{image}.png")
    lines = summary(opened(root, held_out=False))
    counts = [2, 3] + [2] * 28
    assert len(lines) == 2
    assert (
        f"30 classes of 2 (m00) to 3 (n2) images, {np.median(counts):g} in the median" in lines[1]
    )
