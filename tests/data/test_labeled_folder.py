"""Folders with labels in dataset.json: what EDM's and StyleGAN's tools write, unpacked."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from data.test_zip import of_edm, pack, rows

from edm2.data.sources import (
    FileSource,
    FolderImages,
    LabeledFolderImages,
    ZipImages,
    open_source,
)
from edm2.params import UserError, load
from edm2.params.dataset import Dataset


def unpack(folder: Path, labels: object, count: int = 4) -> Path:
    for name, content in of_edm(labels, count).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def source(folder: Path) -> FileSource:
    return FileSource(LabeledFolderImages(folder), 4, "lanczos")


def error_of(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        source(folder)
    return str(error.value)


def test_images_and_labels_are_those_of_the_zip(tmp_path: Path) -> None:
    folder = unpack(tmp_path / "images", rows(1, 0, 0, 1))
    (folder / "00001").mkdir()
    (folder / "00000/img00000003.png").rename(folder / "00001/img00000003.png")
    labels = [*rows(1, 0, 0), ["00001/img00000003.png", 1]]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    members = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}
    zipped = FileSource(ZipImages(pack(tmp_path / "x.zip", members)), 4, "lanczos")
    opened = pickle.loads(pickle.dumps(source(folder)))
    assert opened.classes == zipped.classes == ["0", "1"]
    by_gray = [
        {int(s.image(k)[0, 0, 0]): label for k, label in enumerate(s.labels)}
        for s in (opened, zipped)
    ]
    assert by_gray[0] == by_gray[1] == {0: 1, 10: 0, 20: 0, 30: 1}
    assert not opened.left_out.counts


def test_labels_and_images_that_lack_each_other_are_all_named(tmp_path: Path) -> None:
    labels = [*rows(0, 0, 0)[:2], ["no.png", 0], ["00000/img00000003.png", 1.5]]
    message = error_of(unpack(tmp_path, labels))
    assert "without a label: 00000/img00000002.png" in message
    assert "label without an image: no.png" in message
    assert "00000/img00000003.png: label 1.5" in message


@pytest.mark.parametrize("content", [b"{}", b"[1", b"\xff", b'{"labels": [["a.png"]]}'])
def test_a_dataset_json_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    unpack(tmp_path, rows(0, 0, 0, 0))
    (tmp_path / "dataset.json").write_bytes(content)
    message = error_of(tmp_path)
    assert f"dataset.path: {tmp_path}: dataset.json: " in message
    assert '{"labels": null}' in message


def test_null_labels_are_one_class_which_is_said(tmp_path: Path) -> None:
    opened = source(unpack(tmp_path, None))
    assert opened.labels.tolist() == [0] * 4
    assert "one class" in "".join(opened.doubtful.lines())


def test_other_files_are_counted_and_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    folder = unpack(tmp_path / "images", rows(0, 0, 0, 0))
    (folder / "00000/notes.txt").write_text("x")
    (folder / "00000/dataset.json").write_text("{}")  # only that of the folder itself has labels
    assert source(folder).left_out.counts.total() == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "dataset.json").write_text('{"labels": []}')
    assert "contains no images" in error_of(empty)


def test_the_source_folder_reads_it(tmp_path: Path) -> None:
    folder = unpack(tmp_path, rows(1, 0, 0, 1))
    values = load("params.yaml").dataset.model_dump()
    opened = open_source(Dataset(**{**values, "source": "folder", "path": str(folder)}))
    assert opened.classes == ["0", "1"]
    assert np.bincount(opened.labels).tolist() == [2, 2]


def test_folders_of_a_thousand_images_without_dataset_json_are_doubtful_classes(
    tmp_path: Path,
) -> None:
    """Also in a zip; folders of other names are classes."""
    folder = unpack(tmp_path / "images", rows(1, 0, 0, 1))
    (folder / "dataset.json").unlink()
    content = {name: x for name, x in of_edm(rows(1, 0, 0, 1)).items() if "json" not in name}
    for opened in (FolderImages(folder), ZipImages(pack(tmp_path / "x.zip", content))):
        (line,) = opened.doubtful.lines()
        assert "00000" in line
        assert "no dataset.json" in line
    (folder / "00000").rename(folder / "cats")
    assert not FolderImages(folder).doubtful.counts
