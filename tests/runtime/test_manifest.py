"""Missing, truncated and corrupted results are found and named."""

import contextlib
import json
import pickle
from pathlib import Path

import pytest

from edm2.params import UserError
from edm2.runtime.checked_json import write_checked
from edm2.runtime.files import sha256
from edm2.runtime.manifest import (
    read_manifest,
    read_verified,
    verified,
    write_manifest,
)


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


def test_a_file_read_whole_is_compared_with_the_checksum_of_its_name(folder: Path) -> None:
    (folder / "b.bin").write_bytes(b"54321")
    write_manifest(folder)
    assert verified(folder / "a.bin") == folder / "a.bin"
    checksums = [sha256(folder / name)[:12] for name in ("b.bin", "a.bin")]
    (folder / "a.bin").rename(folder / "held")
    (folder / "b.bin").rename(folder / "a.bin")
    (folder / "held").rename(folder / "b.bin")
    read_manifest(folder)
    with pytest.raises(UserError, match="{}.*expected {}".format(*checksums)) as refusal:
        verified(folder / "a.bin")
    assert str(folder / "a.bin") in str(refusal.value)
    assert "dvc repro" in str(refusal.value)


@pytest.mark.parametrize("name", ["a.bin", "deep/b.bin"])
def test_a_folder_read_whole_is_compared_file_by_file(folder: Path, name: str) -> None:
    assert read_verified(folder) == read_manifest(folder)
    size = (folder / name).stat().st_size
    (folder / name).write_bytes(b"0" * size)
    with pytest.raises(UserError, match=rf"{name}: SHA-256.*dvc repro"):
        read_verified(folder)


def test_files_that_no_manifest_lists_are_not_compared(folder: Path, tmp_path: Path) -> None:
    (folder / "other").write_bytes(b"1")
    assert verified(folder / "other") == folder / "other"
    assert verified(folder / "missing") == folder / "missing"


def test_a_change_of_any_byte_of_a_manifest_is_found(folder: Path) -> None:
    """Except of white space."""
    path = folder / "manifest.json"
    written = path.read_bytes()
    before = read_manifest(folder)
    for position in range(len(written)):
        changed = bytearray(written)
        changed[position] ^= 1
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            assert read_manifest(folder) == before
            assert json.loads(bytes(changed)) == json.loads(written)


@pytest.mark.parametrize("content", ["{}", "[]", '{"files": {}}', '{"name": "extension"}'])
def test_a_manifest_without_its_own_checksum_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: has no checksum"):
        read_manifest(folder)


def test_a_file_of_another_kind_is_no_manifest(folder: Path) -> None:
    write_checked(folder / "manifest.json", {"rows": []})
    with pytest.raises(UserError, match=r"manifest\.json: has no files: a file of another kind"):
        read_manifest(folder)
    write_checked(folder / "manifest.json", {"files": {}})
    manifest = pickle.loads(pickle.dumps(read_manifest(folder)))
    assert (manifest, manifest.get("networks")) == ({"files": {}}, None)
    with pytest.raises(UserError, match=r"manifest\.json: has no networks.*dvc repro"):
        manifest["networks"]


def test_a_manifest_may_be_formatted_differently(folder: Path) -> None:
    before, path = read_manifest(folder), folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    assert read_manifest(folder) == before
