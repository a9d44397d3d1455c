"""Missing, truncated and corrupted results are found and named."""

from pathlib import Path

import pytest

from edm2.params import UserError
from edm2.runtime.manifest import damaged_files, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "deep" / "b.bin").write_bytes(b"678")
    write_manifest(tmp_path, classes=["x", "y"])
    return tmp_path


def test_metadata_and_files_are_listed(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest["classes"] == ["x", "y"]
    assert {name: file["bytes"] for name, file in manifest["files"].items()} == {
        "a.bin": 5,
        "deep/b.bin": 3,
    }


@pytest.mark.parametrize("name", ["a.bin", "deep/b.bin"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
    ],
    ids=["missing", "truncated"],
)
def test_reading_names_a_damaged_file_and_the_fix(folder: Path, name, damage, problem) -> None:
    damage(folder / name)
    with pytest.raises(UserError, match=problem) as refusal:
        read_manifest(folder)
    assert str(folder / name) in str(refusal.value)
    assert "dvc repro" in str(refusal.value)


def test_verification_names_every_damaged_file(folder: Path) -> None:
    assert list(damaged_files(folder)) == []
    (folder / "deep" / "b.bin").unlink()
    (folder / "a.bin").write_bytes(b"12340")  # of the same size
    read_manifest(folder, optional="deep/*")
    changed, missing = damaged_files(folder)
    assert str(folder / "a.bin") in changed
    assert "SHA-256" in changed
    assert str(folder / "deep/b.bin") in missing
    assert len(list(damaged_files(folder, optional="deep/*"))) == 1


def test_the_error_for_a_missing_file_names_the_manifest_that_lists_it(folder: Path) -> None:
    (folder / "deep" / "b.bin").unlink()
    with pytest.raises(UserError) as refusal:
        read_manifest(folder)
    assert str(folder / "manifest.json") in str(refusal.value)


def test_manifests_of_subfolders_are_listed_like_other_files(folder: Path) -> None:
    write_manifest(folder / "deep", depth=1)
    write_manifest(folder)
    (folder / "deep" / "manifest.json").unlink()
    with pytest.raises(UserError, match="missing"):
        read_manifest(folder)


def test_optional_files_may_be_missing_but_not_truncated(folder: Path) -> None:
    read_manifest(folder, optional="deep/*")
    (folder / "deep" / "b.bin").write_bytes(b"6")
    with pytest.raises(UserError, match="truncated"):
        read_manifest(folder, optional="deep/*")
    (folder / "deep" / "b.bin").unlink()
    manifest = read_manifest(folder, optional="deep/*")
    assert (manifest["classes"], list(manifest["files"])) == (["x", "y"], ["a.bin", "deep/b.bin"])
    for pattern in ("", "*.txt", "b.bin"):
        with pytest.raises(UserError, match=r"b\.bin: missing"):
            read_manifest(folder, optional=pattern)
    (folder / "a.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin: missing"):
        read_manifest(folder, optional="deep/*")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        read_manifest(tmp_path / "images")
    assert str(tmp_path / "images" / "manifest.json") in str(refusal.value)


def test_a_truncated_manifest_is_named(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="JSON") as refusal:
        read_manifest(folder)
    assert str(path) in str(refusal.value)
