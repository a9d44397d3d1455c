"""Tars made elsewhere: every file is indexed, and damage is found."""

import io
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import webdataset as wds

from edm2.data.tars import TarFiles
from edm2.params import UserError


def write_tar(path: Path, *names: str, size: int | None = None) -> Path:
    """A tar of files that contain their names; `size` bytes long."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            content = name.encode().ljust(size or 0)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_consecutive_files_with_the_same_key_are_one_sample(tmp_path: Path) -> None:
    """As in WebDataset: the key ends at the first dot of the file name; extensions ignore case."""
    one = write_tar(tmp_path / "1.tar", "a.b/1.x", "a.b/1.seg.PNG", "a.b/2.x", "c/1.x", ".d.x")
    two = write_tar(tmp_path / "2.tar", "c/1.y")  # a sample never spans two tars
    files = TarFiles([one, two])
    samples = [
        {files.extension(k): files.read(k) for k in range(*bounds)}
        for bounds in pairwise(files.sample_starts)
    ]
    assert samples == [
        {"x": b"a.b/1.x", "seg.png": b"a.b/1.seg.PNG"},
        {"x": b"a.b/2.x"},
        {"x": b"c/1.x"},
        {"y": b"c/1.y"},
    ]
    web = wds.WebDataset([str(one)], shardshuffle=False)
    extensions = [{key for key in sample if not key.startswith("__")} for sample in web]
    assert extensions == [set(sample) for sample in samples[:3]]


def test_only_selected_files_are_indexed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "1.tar", "1.x", "1.y", "2.y", "3.x")
    files = TarFiles(
        [path], lambda _, members: ((m.name, "x", m) for m in members if "x" in m.name)
    )
    assert [files.read(i) for i in range(len(files))] == [b"1.x", b"3.x"]
    assert [files.name(i) for i in range(len(files))] == ["1.x", "3.x"]
    assert files.tar(1) == path
    assert files.extensions == ["x"]


@pytest.mark.parametrize("between", [0, 1, 700])
def test_joined_tars_are_read_to_the_end(tmp_path: Path, between: int) -> None:
    """As by `cat`: behind the end marker of the first tar the second starts."""
    parts = [write_tar(tmp_path / f"{name}.tar", f"{name}.x", f"{name}2.x") for name in "abc"]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(bytes(512 * between).join(path.read_bytes() for path in parts))
    files = TarFiles([joined])
    names = ["a.x", "a2.x", "b.x", "b2.x", "c.x", "c2.x"]
    assert [files.read(i).decode() for i in range(len(files))] == names
    assert [files.name(i) for i in range(len(files))] == names
    joined.write_bytes(joined.read_bytes() + b"something else")
    with pytest.raises(UserError, match=str(joined)):
        TarFiles([joined])


Member = tarfile.TarInfo


def truncate_inside_a_file(content: bytearray, second: Member) -> None:
    del content[second.offset_data + 10 :]


def truncate_after_the_first_sample(content: bytearray, second: Member) -> None:
    del content[second.offset :]


def damage_a_header(content: bytearray, second: Member) -> None:
    content[second.offset] ^= 1


@pytest.mark.parametrize(
    "damage",
    [truncate_inside_a_file, truncate_after_the_first_sample, damage_a_header],
)
def test_damage_is_detected(tmp_path: Path, damage: Callable[[bytearray, Member], None]) -> None:
    path = tmp_path / "train-000000.tar"
    write_tar(path, "1.cls", "2.cls", size=4000)
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1]
    content = bytearray(path.read_bytes())
    damage(content, second)
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        TarFiles([path])
