"""Zips of images: labels of dataset.json, folders as classes, and everything that is not read."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import DamagedImageError
from edm2.data.sources import FileSource, ZipImages
from edm2.data.tally import FOREIGN, OTHER_ENDING
from edm2.params import UserError
from edm2.params.registry import implementation
from edm2.params.seams import SOURCES


def png(gray: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 6), (gray, gray, gray)).save(stream, "png")
    return stream.getvalue()


def pack(path: Path, names: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def of_edm(labels: object, count: int = 4) -> dict[str, bytes]:
    """Members as EDM's dataset_tool names them; image k is gray 10·k."""
    images = {f"00000/img{k:08d}.png": png(10 * k) for k in range(count)}
    return {**images, "dataset.json": json.dumps({"labels": labels}).encode()}


def rows(*labels: object) -> list[list[object]]:
    return [[f"00000/img{k:08d}.png", label] for k, label in enumerate(labels)]


def source(path: Path) -> FileSource:
    return FileSource(ZipImages(path), 4, "lanczos")


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        source(path)
    return str(error.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("folder", ["", "imagenet/"])
def test_labels_of_dataset_json(tmp_path: Path, compression: int, folder: str) -> None:
    members = {folder + name: content for name, content in of_edm(rows(1, 0, 0, 1)).items()}
    opened = source(pack(tmp_path / "x.zip", members, compression))
    assert opened.classes == ["0", "1"]
    assert opened.labels.tolist() == [1, 0, 0, 1]
    assert [opened.image(k)[0, 0, 0] for k in range(4)] == [0, 10, 20, 30]
    assert not opened.left_out.counts


def test_null_labels_are_one_class_which_is_said(tmp_path: Path) -> None:
    opened = source(pack(tmp_path / "x.zip", of_edm(None)))
    assert opened.labels.tolist() == [0] * 4
    assert len(opened.classes) == 1
    (line,) = opened.doubtful.lines()
    assert "one class" in line


def test_labels_and_images_that_lack_each_other_are_all_named(tmp_path: Path) -> None:
    labels = [*rows(0, 0, 0)[:2], ["no.png", 0], ["00000/img00000003.png", 1.5]]
    message = error_of(pack(tmp_path / "x.zip", of_edm(labels)))
    assert "without a label: 00000/img00000002.png" in message
    assert "label without an image: no.png" in message
    assert "00000/img00000003.png: label 1.5" in message


@pytest.mark.parametrize("labels", [[["a.png"]], {"a.png": 1}, 7, [*rows(0), *rows(1)]])
def test_a_dataset_json_of_another_form_is_refused(tmp_path: Path, labels: object) -> None:
    assert "dataset.json" in error_of(pack(tmp_path / "x.zip", of_edm(labels)))


def test_gaps_in_labels_are_named(tmp_path: Path) -> None:
    message = error_of(pack(tmp_path / "x.zip", of_edm(rows(0, 0, 2, 2))))
    assert "class 1:" in message
    assert "class 0:" not in message
    assert "9" in error_of(pack(tmp_path / "x.zip", of_edm(rows(0, 0, 9, 9))))


@pytest.mark.parametrize("above", ["", "train/", "data/imagenet/"])
def test_without_dataset_json_folders_are_classes(tmp_path: Path, above: str) -> None:
    names = ("b/1.png", "a/1.png", "b/more/2.png", "a/2.png")
    path = pack(tmp_path / "x.zip", {above + name: png(k) for k, name in enumerate(names)})
    opened = source(path)
    assert opened.classes == ["a", "b"]
    assert opened.labels.tolist() == [1, 0, 1, 0]


def test_a_single_folder_of_images_is_a_class(tmp_path: Path) -> None:
    opened = source(pack(tmp_path / "x.zip", {"x/cats/1.png": png(0), "x/cats/2.png": png(1)}))
    assert opened.classes == ["cats"]


def test_everything_that_is_not_read_has_a_reason(tmp_path: Path) -> None:
    members = {f"a/{k}.png": png(k) for k in range(2)} | {f"b/{k}.png": png(k) for k in range(2)}
    others = ("loose.png", "a/notes.txt", "__MACOSX/a/._0.png", "a/._1.png", "empty/")
    path = pack(tmp_path / "x.zip", members | dict.fromkeys(others, b""))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/0.png", png(9))
    opened = source(path)
    assert len(opened.labels) == 4
    reasons = {name: why for why, names in opened.left_out.examples.items() for name in names}
    assert reasons["a/notes.txt"] == OTHER_ENDING
    assert reasons["__MACOSX/a/._0.png"] == reasons["a/._1.png"] == FOREIGN
    assert "no class" in reasons["loose.png"]
    assert "later" in reasons["a/0.png"]
    assert opened.left_out.counts.total() == 6
    assert sorted(opened.image(k)[0, 0, 0] for k in range(4)) == [0, 1, 1, 9]


def test_splits_are_no_classes(tmp_path: Path) -> None:
    names = {f"{split}/a/{k}.png": png(k) for split in ("train", "val") for k in range(2)}
    assert "train, val" in error_of(pack(tmp_path / "x.zip", names))


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("a/1.txt",), ()])
def test_a_zip_without_classes_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert "contains no" in error_of(pack(tmp_path / "x.zip", dict.fromkeys(names, b"")))


def test_what_zlib_does_not_decompress_is_listed(tmp_path: Path) -> None:
    members = {f"a/{k}.png": png(k) for k in range(3)}
    message = error_of(pack(tmp_path / "x.zip", members, zipfile.ZIP_LZMA))
    assert all(name in message for name in members)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    members = {f"a/{name}.png": png(k) for k, name in enumerate(("0", "é", "2"))}
    path = pack(tmp_path / "x.zip", members)
    path.write_bytes(path.read_bytes().replace(png(1), png(1)[:-20] + bytes(20)))
    opened = source(path)
    opened.image(0)
    with pytest.raises(DamagedImageError, match=r"x\.zip: a/é\.png: .*checksum"):
        opened.image(1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_zip_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.path: .*x\.zip"):
        source(tmp_path / "x.zip")


def test_an_open_zip_is_pickled_small_and_read_elsewhere(tmp_path: Path) -> None:
    opened = source(pack(tmp_path / "x.zip", of_edm(rows(*[0] * 500), 500)))
    first = opened.image(7)
    content = pickle.dumps(opened)
    assert len(content) < 500 * 60
    np.testing.assert_array_equal(pickle.loads(content).image(7), first)


def test_a_zip_may_hold_out_another(tmp_path: Path, dataset) -> None:
    for name in ("train", "val"):
        pack(tmp_path / f"{name}.zip", of_edm(rows(0, 0, 1, 1)))
    changes = {
        f: str(tmp_path / f"{n}.zip") for f, n in (("path", "train"), ("held_out_path", "val"))
    }
    changed = dataset.model_copy(update={**changes, "source": "zip", "held_out": None})
    opened = implementation(SOURCES["zip"].open)(changed, tmp_path)
    train, held_out = opened.split(None, 0)
    assert (sorted(train), sorted(held_out)) == ([0, 1, 2, 3], [4, 5, 6, 7])


def flipped(path: Path, position: int, value: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= value
    path.write_bytes(content)


def test_a_member_whose_header_is_damaged_is_named_by_position(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.zip", {f"a/{k}.png": png(k) for k in range(2)})
    with zipfile.ZipFile(path) as archive:
        last = archive.infolist()[-1].header_offset
    flipped(path, last + 27, 255)  # its name would end beyond the file
    with pytest.raises(DamagedImageError, match=f"x.zip: the member at byte {last}"):
        source(path).image(1)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(6, 128), (8, 1), (10, 2), (46, 255)],
    ids=["version", "encrypted", "compression", "name"],
)
def test_a_damaged_list_of_members_is_an_error_of_the_zip(
    tmp_path: Path, offset: int, value: int
) -> None:
    path = pack(tmp_path / "x.zip", {"dataset.json": b"{}", "\u00fc.png": png(1)})
    central = path.read_bytes().index(b"PK\1\2")
    if offset == 46:  # of the name that is UTF-8
        central = path.read_bytes().rindex(b"PK\1\2")
    flipped(path, central + offset, value)
    assert f"dataset.path: {path}: " in error_of(path)
