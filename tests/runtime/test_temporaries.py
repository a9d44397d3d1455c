"""Temporary names say whose they are; what is left is removed, and nothing that is in use."""

import os
import subprocess
import sys
import time

import pytest

from edm2.runtime import temporaries
from edm2.runtime.temporaries import (
    is_abandoned,
    remove_abandoned,
    remove_left_in,
    remove_left_of,
    shared_name,
    temporary,
    temporary_folder,
)

ENDED = 2**22 + 1  # above the largest number of a process


def name_of(process, machine=None):
    return f".net.{machine or temporaries._machine()}-{process}-0123abcd.partial"


@pytest.fixture
def left(tmp_path):
    """left(name): a file and, in a folder beside it, another one."""

    def make(name, folder=False):
        path = tmp_path / name
        if folder:
            path.mkdir()
        (path / "part" if folder else path).write_text("half")
        return path

    return make


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, None])
@pytest.mark.parametrize("folder", [True, False])
def test_a_temporary_is_hidden_beside_its_place_and_removed_in_the_end(tmp_path, error, folder):
    def write():
        with temporary(tmp_path / "a.txt") as path:
            assert path.parent == tmp_path
            assert path.match(".a.txt.*.partial")
            path.mkdir() if folder else path.write_text("half")
            assert not is_abandoned(path)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            write()
    else:
        write()
    assert list(tmp_path.iterdir()) == []


def test_what_an_ended_process_has_left_is_removed_and_nothing_else(tmp_path, left):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        kept = [
            left(name_of(process.pid)),  # in use
            left(".net.123.partial"),  # not ours for certain
            left(".net.partial"),  # of several ranks
            left(name_of(ENDED, "00000000")),  # of another machine, just now
            left("net"),
        ]
        left(name_of(ENDED))
        left(name_of(ENDED).replace("net", "folder"), folder=True)
        old = left(name_of(ENDED, "00000001"), folder=True)
        for path in (old / "part", old):
            os.utime(path, (0, time.time() - 2 * 86400))
        remove_abandoned(tmp_path)
        assert set(tmp_path.iterdir()) == set(kept)
        process.communicate(b"\n")
    remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == set(kept[1:])


def test_files_of_another_user_are_not_ours(left, monkeypatch):
    path = left(name_of(ENDED))
    assert is_abandoned(path)
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    assert not is_abandoned(path)


def test_the_first_writer_into_a_folder_removes_what_was_left_there(tmp_path, left):
    path = left(name_of(ENDED))
    with temporary(tmp_path / "other"):
        assert not path.exists()


def test_whoever_has_the_lock_removes_all_but_what_is_shared(tmp_path):
    items = tmp_path / "items"
    for folder in (tmp_path / "deep", items):
        folder.mkdir()
        (folder / ".a.1.partial").write_text("")
    shared_name(tmp_path / "checkpoint").mkdir()
    remove_left_in(tmp_path, items)
    assert {p.name for p in tmp_path.rglob("*")} == {"deep", "items", ".a.1.partial"}
    assert (items / ".a.1.partial").exists()


def test_what_was_left_of_one_file_is_found_by_its_name(tmp_path, left):
    for name in (".net.1.partial", ".net.json.1.partial", ".net.partial"):
        left(name)
    other = left(".net2.1.partial")
    remove_left_of(tmp_path / "net")
    assert list(tmp_path.iterdir()) == [other]


def test_temporary_folders_are_private(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "a").write_text("")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []
