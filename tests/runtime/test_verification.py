"""Verification reads every listed file once, shared by the ranks, and names all damage."""

from pathlib import Path

import pytest

from edm2.runtime import verification
from edm2.runtime.distributed import Ranks
from edm2.runtime.files import sha256
from edm2.runtime.manifest import read_manifest, write_manifest
from edm2.runtime.verification import damaged_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "deep" / "b.bin").write_bytes(b"678")
    write_manifest(tmp_path)
    return tmp_path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    monkeypatch.setattr(
        verification, "sha256", lambda path, *args: (names.append(path.name), sha256(path))[1]
    )
    return names


def test_every_damaged_file_is_named(folder: Path) -> None:
    assert damaged_files([folder]) == []
    (folder / "deep" / "b.bin").unlink()
    (folder / "a.bin").write_bytes(b"12340")  # of the same size
    read_manifest(folder, optional="deep/*")
    changed, missing = damaged_files([folder])
    assert str(folder / "a.bin") in changed
    assert "SHA-256" in changed
    assert str(folder / "deep/b.bin") in missing
    assert len(damaged_files([folder], optional="deep/*")) == 1


def test_a_file_that_cannot_be_read_is_named_with_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *args: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verification, "sha256", fail)
    problems = damaged_files([folder])
    assert [problem.partition(": ")[0] for problem in problems] == [
        str(folder / "a.bin"),
        str(folder / "deep/b.bin"),
    ]
    assert all("Input/output error" in problem for problem in problems)


def test_a_manifest_that_cannot_be_read_is_named_with_the_others(folder: Path) -> None:
    other = folder / "other"
    (other / "manifest.json").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"12340")
    unreadable, changed = damaged_files([other, folder])
    assert unreadable.startswith(f"{other / 'manifest.json'}: cannot be read")
    assert changed.startswith(f"{folder / 'a.bin'}: SHA-256")


def test_a_file_that_two_manifests_list_is_read_once(folder: Path, read: list[str]) -> None:
    write_manifest(folder / "deep")
    write_manifest(folder)
    damaged_files([folder, folder / "deep"])
    assert sorted(read) == ["a.bin", "b.bin", "manifest.json"]


def test_ranks_share_the_bytes(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(8):
        (tmp_path / f"{k}.bin").write_bytes(bytes(100 + k))
    write_manifest(tmp_path)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(verification, "ranks", lambda rank=rank: Ranks(rank, 2, rank))
        damaged_files([tmp_path])
        shares.append(set(read))
        read.clear()
    assert shares[0] | shares[1] == {f"{k}.bin" for k in range(8)}
    assert not shares[0] & shares[1]
    sizes = [sum(100 + int(name[0]) for name in share) for share in shares]
    assert abs(sizes[0] - sizes[1]) <= 4
