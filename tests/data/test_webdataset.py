"""WebDataset shards with labels as a source."""

import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import DamagedImageError
from edm2.data.sources import FileSource, TarImages
from edm2.data.tally import OTHER_ENDING
from edm2.params import UserError


def picture(gray: int, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 6), (gray, gray, gray)).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def source(*paths: Path, field: str | None = None) -> FileSource:
    return FileSource(TarImages(paths, field, paths[0].parent / "indices"), 4, "lanczos")


def error_of(*paths: Path, field: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        source(*paths, field=field)
    return str(error.value)


def test_labels_of_cls_files_before_or_after_their_images(tmp_path: Path) -> None:
    first = {"0.png": picture(0), "0.cls": b"1", "1.cls": b"0\n", "1.PNG": picture(10)}
    second = {"a/2.bmp": picture(20, "bmp"), "a/2.cls": b" 1 ", "3.png": picture(30), "3.cls": b"0"}
    opened = source(write_tar(tmp_path / "0.tar", first), write_tar(tmp_path / "1.tar", second))
    assert opened.classes == ["0", "1"]
    assert opened.labels.tolist() == [1, 0, 1, 0]
    assert [opened.image(k)[0, 0, 0] for k in range(4)] == [0, 10, 20, 30]
    assert not opened.left_out.counts


@pytest.mark.parametrize("values", [(1, 0, 1, 0), ("n02", "n01", "n02", "n01")])
def test_labels_of_a_json_field_are_numbers_or_texts(tmp_path: Path, values: tuple) -> None:
    files = {}
    for k, value in enumerate(values):
        files |= {f"{k}.png": picture(k), f"{k}.json": json.dumps({"y": value}).encode()}
        files[f"{k}.cls"] = b"9"
    opened = source(write_tar(tmp_path / "0.tar", files), field="y")
    assert opened.classes == sorted({str(value) for value in values})
    assert opened.labels.tolist() == [1, 0, 1, 0]
    assert opened.left_out.counts == {OTHER_ENDING: 4}


def test_labels_and_all_else_are_stored_with_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"0.png": picture(0), "0.cls": b"b", "1.png": picture(10), "1.cls": b"a", "2.cls": b"a"}
    paths = [write_tar(tmp_path / f"{k}.tar", files) for k in range(2)]
    first, wrong = source(*paths), error_of(*paths, field="y")
    monkeypatch.setattr("edm2.data.tars.members", None)  # no tar is read again
    second = source(*paths)
    assert second.labels.tolist() == first.labels.tolist() == [1, 0, 1, 0]
    assert second.left_out.lines() == first.left_out.lines() != []
    assert error_of(*paths, field="y") == wrong
    assert f"{paths[1]}: 1.png: no label" in wrong


def test_names_with_dots_have_the_label_of_their_sample(tmp_path: Path) -> None:
    files = {
        "22.05.png": picture(0),
        "22.05.cls": b"0",
        "22.06.png": picture(0),
        "22.06.cls": b"1",
        "x.photo.png": picture(0),
        "x.cls": b"1",
        "d.e/y.png": picture(0),
        "d.e/y.cls": b"0",
    }
    assert source(write_tar(tmp_path / "0.tar", files)).labels.tolist() == [0, 1, 1, 0]


def test_labels_without_images_and_other_files_are_counted(tmp_path: Path) -> None:
    files = {f"{k}.{e}": c for k in range(2) for e, c in (("png", picture(0)), ("cls", b"0"))}
    opened = source(write_tar(tmp_path / "0.tar", {**files, "9.cls": b"0", "0.txt": b"red"}))
    assert opened.left_out.examples == {
        "label without an image": [f"{tmp_path}/0.tar: 9.cls"],
        OTHER_ENDING: [f"{tmp_path}/0.tar: 0.txt"],
    }


def test_all_labels_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    contents = {"1": b"-1", "2": b"\xff", "3": b"", "4": b"0"}
    files = {f"{k}.cls": content for k, content in contents.items()}
    files |= {f"{k}.png": picture(0) for k in range(5)}
    message = error_of(write_tar(tmp_path / "0.tar", files))
    for name in ("0.png: no label", "1.png: label -1", "2.cls: ", "3.png: label ''"):
        assert f"0.tar: {name}" in message
    assert "4.png" not in message


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"{", b'{"y": 1.5}', b'{"y": true}'])
def test_a_json_without_the_label_is_named(tmp_path: Path, content: bytes) -> None:
    path = write_tar(tmp_path / "0.tar", {"0.png": picture(0), "0.json": content})
    assert "0.tar: 0." in error_of(path, field="y")


def test_numbers_and_texts_are_not_mixed(tmp_path: Path) -> None:
    files = {"0.png": picture(0), "0.cls": b"0", "1.png": picture(0), "1.cls": b"cat"}
    assert "0.tar: 0.png" in error_of(write_tar(tmp_path / "0.tar", files))


def test_tars_without_images_are_refused(tmp_path: Path) -> None:
    assert "no images" in error_of(write_tar(tmp_path / "0.tar", {"0.cls": b"0"}))


def test_a_damaged_image_is_named_and_the_source_pickles(tmp_path: Path) -> None:
    files = {"0.png": picture(7), "0.cls": b"0", "1.png": b"damaged", "1.cls": b"0"}
    opened = pickle.loads(pickle.dumps(source(write_tar(tmp_path / "0.tar", files))))
    assert np.unique(opened.image(0)) == [7]
    with pytest.raises(DamagedImageError, match=r"0\.tar: 1\.png: "):
        opened.image(1)


def test_identity_changes_with_the_tars(tmp_path: Path) -> None:
    files = {f"{k}.{e}": c for k in range(2) for e, c in (("png", picture(0)), ("cls", b"0"))}
    before = source(write_tar(tmp_path / "0.tar", files)).identity()
    assert source(tmp_path / "0.tar").identity() == before
    (tmp_path / "moved").mkdir()
    (tmp_path / "0.tar").rename(tmp_path / "moved/0.tar")
    assert source(tmp_path / "moved/0.tar").identity() == before
    more = {**files, "9.png": picture(9), "9.cls": b"0"}
    assert source(write_tar(tmp_path / "0.tar", more)).identity() != before


@pytest.mark.parametrize("value", [b"NaN", b'"\\ud800"'])
def test_values_that_only_json_can_have_are_no_labels(tmp_path: Path, value: bytes) -> None:
    files = {"0.png": picture(0), "0.json": b'{"y": ' + value + b"}"}
    message = error_of(write_tar(tmp_path / "0.tar", files), field="y")
    assert "0.tar: 0.png: label " in message
    assert "twice" not in message


def test_a_sample_with_two_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        for label in (b"0", b"0", b"1"):
            for name, content in (("0.png", picture(0)), ("0.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert error_of(path).count("0.tar: 0.cls: occurs twice") == 1
