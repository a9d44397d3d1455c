"""Files are complete or absent; links replace an older target."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edm2.params.errors import NotFiniteError
from edm2.runtime.files import describe, link, replacing, sha256, write_json, write_text
from edm2.runtime.temporaries import remove


def write_and_fail(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError


def test_the_old_file_remains_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_and_fail(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]  # and no incomplete file


def test_the_new_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_weights_can_be_read_by_those_who_can_read_other_files(tmp_path: Path) -> None:
    """safetensors makes files for their owner alone."""
    with replacing(tmp_path / "weights") as temporary:
        save_file({"w": torch.ones(1)}, temporary)
    (tmp_path / "other").touch()
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_text_and_json_are_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "σ")
    write_json(tmp_path / "b", {"σ": [1, None]})
    assert (tmp_path / "a").read_bytes() == b"\xcf\x83"
    assert (tmp_path / "b").read_bytes().startswith(b'{\n "\xcf\x83"')


def test_sha256_of_a_published_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == expected


def make(path: Path, kind: str, text: str) -> None:
    if kind == "folder":
        (path / "deep").mkdir(parents=True)
        (path / "deep" / text).write_text(text)
    else:
        path.write_text(text)


def texts(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_text() for file in files}


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("file", None),
        ("file", "file"),
        ("file", "folder"),
        ("folder", None),
        ("folder", "file"),
        ("folder", "folder"),
    ],
)
def test_link_replaces_the_target(tmp_path: Path, kind: str, before: str | None) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    make(source, kind, "new")
    if before:
        target.parent.mkdir()
        make(target, before, "old")
    link(source, target)
    assert texts(target) == texts(source)
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_links_use_no_disk_space(tmp_path: Path) -> None:
    make(tmp_path / "source", "folder", "a")
    link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target/deep/a").samefile(tmp_path / "source/deep/a")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_link_copies_where_hard_links_fail(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    make(tmp_path / "source", kind, "a")
    link(tmp_path / "source", tmp_path / "target")
    assert texts(tmp_path / "target") == texts(tmp_path / "source")
    name = "deep/a" if kind == "folder" else "."
    assert not (tmp_path / "target" / name).samefile(tmp_path / "source" / name)


def test_remove_accepts_files_folders_and_missing_paths(tmp_path: Path) -> None:
    make(tmp_path / "a", "file", "a")
    make(tmp_path / "b", "folder", "b")
    for name in "abc":
        remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_linking_the_same_file_twice_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("text")
    for _ in range(2):
        link(tmp_path / "source", tmp_path / "out" / "target")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["target"]


def test_description_changes_with_name_size_and_modification_time(tmp_path: Path) -> None:
    path, descriptions = tmp_path / "a", []
    for content, time in ((b"1", 5), (b"12", 5), (b"12", 6)):
        path.write_bytes(content)
        os.utime(path, (time, time))
        descriptions.append(describe([path]))
    path.rename(tmp_path / "b")
    descriptions.append(describe([tmp_path / "b"]))
    assert len(set(descriptions)) == 4
    assert describe([tmp_path / "b"]) == descriptions[-1]
    assert len(describe([tmp_path / "b"] * 3).splitlines()) == 3


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_json_holds_finite_numbers_only(tmp_path: Path, value: float) -> None:
    with pytest.raises(NotFiniteError, match=rf"b: metrics.1.psnr: {value}"):
        write_json(tmp_path / "b", {"n": 3, "metrics": [1.0, {"psnr": value}]})
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("devices", [1, 2])
def test_links_are_made_in_the_scratch_folder_if_that_is_on_the_same_file_system(
    tmp_path: Path, kind: str, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, renamed = tmp_path / "state" / "source", tmp_path / "out", []

    def replace(path: Path, target: Path) -> None:
        renamed.append(path.parent)
        if devices == 2 and path.parent != target.parent:
            raise OSError(errno.EXDEV, "another file system")
        os.rename(path, target)

    source.parent.mkdir()
    make(source, kind, "a")
    monkeypatch.setattr(Path, "replace", replace)
    link(source, out / "target", source.parent)
    assert renamed == [source.parent, out][:devices]
    assert texts(out / "target") == texts(source)
    assert [path.name for path in out.iterdir()] == ["target"]
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def test_a_link_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    make(tmp_path / "source", "folder", "a")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        link(tmp_path / "source", tmp_path / "out" / "target")
    assert list((tmp_path / "out").iterdir()) == []
