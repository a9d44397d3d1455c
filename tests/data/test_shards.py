"""Shards: compatible with `webdataset`, reproducible, and checked for damage."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset as wds

from edm2.data.shards import Samples, Shards, TarFiles, write_shard
from edm2.params import UserError
from edm2.runtime.manifest import write_manifest

SAMPLES = [
    {"__key__": f"{i:08d}", "png": bytes([i]) * (700 * i), "cls": str(i).encode()} for i in range(5)
]
CONTENTS = [{"png": sample["png"], "cls": sample["cls"]} for sample in SAMPLES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of training samples and one of held-out samples."""
    write_shard(tmp_path / "train-000000.tar", SAMPLES[:3])
    write_shard(tmp_path / "train-000001.tar", SAMPLES[3:])
    write_shard(tmp_path / "held_out-000000.tar", SAMPLES[:1])
    write_manifest(tmp_path, size=8)
    return tmp_path


def test_webdataset_reads_our_shards(folder: Path) -> None:
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    fields = ("__key__", "png", "cls")
    assert [{key: sample[key] for key in fields} for sample in samples] == SAMPLES


def test_shards_written_by_webdataset_are_read(tmp_path: Path) -> None:
    with wds.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=2, verbose=0) as writer:
        for sample in SAMPLES:
            writer.write(dict(sample))
    write_manifest(tmp_path)
    shards = Shards(tmp_path, "train")
    assert [shards[i] for i in range(len(shards))] == CONTENTS


def test_equal_samples_give_equal_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    monkeypatch.setattr("time.time", lambda: 2e9)  # on another day
    write_shard(tmp_path / "b.tar", iter(SAMPLES))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_items_are_read_in_any_order(folder: Path) -> None:
    shards = Shards(folder, "train")
    assert len(shards) == 5
    assert [shards[i] for i in (4, 0, 3, 2, 1)] == [CONTENTS[i] for i in (4, 0, 3, 2, 1)]
    assert shards.metadata["size"] == 8
    assert len(Shards(folder, "held_out")) == 1


def test_by_shard_gives_the_items_of_each_shard(folder: Path) -> None:
    expected = {"train-000000.tar": range(3), "train-000001.tar": range(3, 5)}
    assert Shards(folder, "train").by_shard() == expected


def test_a_single_shard_is_read_in_order(folder: Path) -> None:
    assert list(Samples([folder / "train-000001.tar"])) == CONTENTS[3:]


def write_tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path


def test_consecutive_files_with_the_same_key_are_one_sample(tmp_path: Path) -> None:
    """As in WebDataset: the key ends at the first dot of the file name; extensions ignore case."""
    one = write_tar(tmp_path / "1.tar", "a.b/1.x", "a.b/1.seg.PNG", "a.b/2.x", "c/1.x", ".d.x")
    two = write_tar(tmp_path / "2.tar", "c/1.y")  # a sample never spans two tars
    samples = list(Samples([one, two]))
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


def test_a_shard_appears_when_it_is_complete(tmp_path: Path) -> None:
    def samples():
        yield SAMPLES[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_shard(tmp_path / "a.tar", samples())
    assert not list(tmp_path.iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_damaged_shard_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    path = folder / "train-000001.tar"
    damage(path)
    with pytest.raises(UserError, match="dvc repro") as error:
        Shards(folder, "train")
    assert str(path) in str(error.value)


def test_a_file_that_is_not_a_tar_is_named(folder: Path) -> None:
    path = folder / "train-000001.tar"
    path.write_bytes(b"This is no tar. " * 100)
    write_manifest(folder)  # with the size and checksum of this file
    with pytest.raises(UserError, match="dvc repro") as error:
        Shards(folder, "train")
    assert str(path) in str(error.value)


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
def test_damage_is_detected_without_a_manifest(
    tmp_path: Path, damage: Callable[[bytearray, Member], None]
) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [{"__key__": str(i), "cls": b"1" * 4000} for i in range(2)])
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1]
    content = bytearray(path.read_bytes())
    damage(content, second)
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        Samples([path])


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="'test'"):
        Shards(folder, "test")
