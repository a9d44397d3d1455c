"""Tars made elsewhere: every file is indexed, once, and damage is found."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from edm2.data import tars
from edm2.data.tars import Member, TarFiles
from edm2.params import UserError
from edm2.runtime.distributed import Ranks
from edm2.runtime.locks import exclusive


class WithX:
    """Selects files with an x in their names; notes the others."""

    identity = "with x"

    def __init__(self) -> None:
        self.others: list[str] = []

    def __call__(self, path: Path, members: Iterable[tarfile.TarInfo]) -> Iterator[Member]:
        for member in members:
            if "x" in member.name:
                yield member.name, "x", member
            else:
                self.others.append(member.name)

    def notes(self) -> dict[str, Any]:
        return {"others": self.others}


def open_files(*paths: Path) -> TarFiles:
    return TarFiles(paths, WithX, paths[0].parent / "indices")


def write_tar(path: Path, *names: str, size: int | None = None) -> Path:
    """A tar of files that contain their names; `size` bytes long."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            content = name.encode("utf-8", "surrogateescape").ljust(size or 0)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tars whose headers are read."""
    names: list[str] = []
    members = tars.members
    monkeypatch.setattr(tars, "members", lambda p: (names.append(p.name), members(p))[1])
    return names


def test_only_selected_files_are_indexed(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "1.tar", "1.x", "1.y", "2.y", "ä" * 80 + ".x", "3\udce9.x")
    two = write_tar(tmp_path / "2.tar", "1.y", "4.x")
    files = open_files(one, two)
    assert files.names(0) == ["1.x", "ä" * 80 + ".x", "3\udce9.x"]
    assert files.names(1) == ["4.x"]
    assert [files.name(i) for i in (2, 3)] == [f"{one}: 3\\xe9.x", f"{two}: 4.x"]
    assert files.read(0) == b"1.x"
    assert files.read(3) == b"4.x"
    assert files.notes == [{"others": ["1.y", "2.y"]}, {"others": ["1.y"]}]


def test_a_tar_may_have_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "\udce9.tar", "1.x")
    for _ in range(2):
        assert open_files(path).read(0) == b"1.x"


def test_a_tar_is_indexed_again_only_if_it_changes(tmp_path: Path, scanned: list[str]) -> None:
    one, two = (write_tar(tmp_path / f"{name}.tar", "1.x", "1.y") for name in "12")
    first = open_files(one, two)
    assert scanned == ["1.tar", "2.tar"]
    second = open_files(one, two)
    assert scanned == ["1.tar", "2.tar"]
    assert second.notes == first.notes
    assert list(open_files(one, two)) == list(first)
    before = two.stat()
    write_tar(two, "2.x", "2.y")
    os.utime(two, ns=(0, before.st_mtime_ns + 1))
    with pytest.raises(UserError, match=rf"{two}: has another size or time"):
        second.read(1)
    third = open_files(one, two)
    assert scanned[2:] == ["2.tar"]
    assert [third.read(i) for i in range(2)] == [b"1.x", b"2.x"]
    assert len([p for p in (tmp_path / "indices").iterdir() if p.suffix != ".lock"]) == 4


def test_another_scan_has_another_index(
    tmp_path: Path, scanned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "1.tar", "1.x")
    open_files(path)
    monkeypatch.setattr(WithX, "identity", "other")
    open_files(path)
    monkeypatch.setattr(tars, "_code", lambda: "of another version")
    open_files(path)
    assert scanned == ["1.tar"] * 3


def test_ranks_start_with_different_tars(
    tmp_path: Path, scanned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_tar(tmp_path / f"{k}.tar", "1.x") for k in range(4)]
    monkeypatch.setattr(tars, "ranks", lambda: Ranks(1, 2, 1))
    open_files(*paths)
    assert scanned == ["2.tar", "3.tar", "0.tar", "1.tar"]


def test_a_tar_that_another_process_indexes_is_left_to_it(
    tmp_path: Path, scanned: list[str]
) -> None:
    paths = [write_tar(tmp_path / f"{k}.tar", "1.x") for k in range(2)]
    open_files(*paths)
    (of_first,) = (
        p for p in (tmp_path / "indices").glob("*.json") if str(paths[0]) in p.read_text()
    )
    of_first.rename(tmp_path / "description")  # not yet written
    opened: list[TarFiles] = []
    with exclusive(of_first.with_suffix(".lock")):
        waiting = Thread(target=lambda: opened.append(open_files(*paths)))
        waiting.start()
        waiting.join(0.2)
        assert not opened
        (tmp_path / "description").rename(of_first)
    waiting.join()
    assert len(opened[0]) == 2
    assert scanned == ["0.tar", "1.tar"]


@pytest.mark.parametrize("between", [0, 1, 700])
def test_joined_tars_are_read_to_the_end(tmp_path: Path, between: int) -> None:
    """As by `cat`: behind the end marker of the first tar the second starts."""
    parts = [write_tar(tmp_path / f"{name}.tar", f"{name}.x", f"{name}2.x") for name in "abc"]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(bytes(512 * between).join(path.read_bytes() for path in parts))
    files = open_files(joined)
    names = ["a.x", "a2.x", "b.x", "b2.x", "c.x", "c2.x"]
    assert [files.read(i).decode() for i in range(len(files))] == names
    assert files.names(0) == names
    joined.write_bytes(joined.read_bytes() + b"something else")
    with pytest.raises(UserError, match=str(joined)):
        open_files(joined)


def truncate_inside_a_file(content: bytearray, second: tarfile.TarInfo) -> None:
    del content[second.offset_data + 10 :]


def truncate_after_the_first_file(content: bytearray, second: tarfile.TarInfo) -> None:
    del content[second.offset :]


def damage_a_header(content: bytearray, second: tarfile.TarInfo) -> None:
    content[second.offset] ^= 1


@pytest.mark.parametrize(
    "damage", [truncate_inside_a_file, truncate_after_the_first_file, damage_a_header]
)
def test_damage_is_found_and_nothing_is_stored(
    tmp_path: Path, damage: Callable[[bytearray, tarfile.TarInfo], None]
) -> None:
    path = write_tar(tmp_path / "0.tar", "1.x", "2.x", size=4000)
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1]
    content = bytearray(path.read_bytes())
    damage(content, second)
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{path}: .*write this one again"):
            open_files(path)
