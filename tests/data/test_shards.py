"""Shards: what `webdataset` reads, equal for equal samples, refused when damaged."""

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
    """Two shards of training samples and one of held-out ones."""
    write_shard(tmp_path / "train-000000.tar", SAMPLES[:3])
    write_shard(tmp_path / "train-000001.tar", SAMPLES[3:])
    write_shard(tmp_path / "held_out-000000.tar", SAMPLES[:1])
    write_manifest(tmp_path, size=8)
    return tmp_path


def test_webdataset_reads_what_was_written(folder: Path) -> None:
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    found = list(wds.WebDataset(urls, shardshuffle=False))
    fields = ("__key__", "png", "cls")
    assert [{key: sample[key] for key in fields} for sample in found] == SAMPLES


def test_shards_of_webdataset_are_read(tmp_path: Path) -> None:
    with wds.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=2, verbose=0) as writer:
        for sample in SAMPLES:
            writer.write(dict(sample, png=sample["png"], cls=sample["cls"]))
    write_manifest(tmp_path)
    shards = Shards(tmp_path, "train")
    assert [shards[i] for i in range(len(shards))] == CONTENTS


def test_equal_samples_make_equal_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    monkeypatch.setattr("time.time", lambda: 2e9)  # on another day
    write_shard(tmp_path / "b.tar", iter(SAMPLES))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_items_are_read_at_random(folder: Path) -> None:
    shards = Shards(folder, "train")
    assert len(shards) == 5
    assert [shards[i] for i in (4, 0, 3, 2, 1)] == [CONTENTS[i] for i in (4, 0, 3, 2, 1)]
    assert shards.facts["size"] == 8
    assert len(Shards(folder, "held_out")) == 1


def test_items_are_known_by_shard(folder: Path) -> None:
    expected = {"train-000000.tar": range(3), "train-000001.tar": range(3, 5)}
    assert Shards(folder, "train").by_shard() == expected


def test_one_shard_is_read_in_order(folder: Path) -> None:
    assert list(Samples([folder / "train-000001.tar"])) == CONTENTS[3:]


def tar_of(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path


def test_neighbors_with_a_key_in_common_are_a_sample(tmp_path: Path) -> None:
    """The key goes up to the first dot after the folders, as in WebDataset; case is no matter."""
    one = tar_of(tmp_path / "1.tar", "a.b/1.x", "a.b/1.seg.PNG", "a.b/2.x", "c/1.x", ".d.x")
    two = tar_of(tmp_path / "2.tar", "c/1.y")  # tars share no samples
    found = list(Samples([one, two]))
    assert found == [
        {"x": b"a.b/1.x", "seg.png": b"a.b/1.seg.PNG"},
        {"x": b"a.b/2.x"},
        {"x": b"c/1.x"},
        {"y": b"c/1.y"},
    ]
    web = wds.WebDataset([str(one)], shardshuffle=False)
    keys = [{key for key in sample if not key.startswith("__")} for sample in web]
    assert keys == [set(sample) for sample in found[:3]]


def test_files_that_are_not_wanted_are_not_indexed(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "1.tar", "1.x", "1.y", "2.y", "3.x")
    files = TarFiles([path], "x".__eq__)
    assert [files.content(i) for i in range(len(files))] == [b"1.x", b"3.x"]
    assert [files.name(i) for i in range(len(files))] == ["1.x", "3.x"]
    assert files.tar(1) == path
    assert files.endings == ["x"]


def test_shard_appears_when_complete(tmp_path: Path) -> None:
    def samples():
        yield SAMPLES[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_shard(tmp_path / "a.tar", samples())
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "missing"])
def test_damaged_shard_is_refused_by_name(folder: Path, damage: Callable[[Path], None]) -> None:
    path = folder / "train-000001.tar"
    damage(path)
    with pytest.raises(UserError) as refusal:
        Shards(folder, "train")
    assert str(path) in str(refusal.value)
    assert "dvc repro" in str(refusal.value)


def test_what_is_no_tar_is_refused_by_name(folder: Path) -> None:
    path = folder / "train-000001.tar"
    path.write_bytes(b"This is no tar. " * 100)
    write_manifest(folder)  # the manifest has nothing against it
    with pytest.raises(UserError, match="not a readable tar") as refusal:
        Shards(folder, "train")
    assert str(path) in str(refusal.value)


Member = tarfile.TarInfo


def cut_inside_a_file(content: bytearray, second: Member) -> None:
    del content[second.offset_data + 10 :]


def cut_after_the_first_sample(content: bytearray, second: Member) -> None:
    del content[second.offset :]


def break_a_header(content: bytearray, second: Member) -> None:
    content[second.offset] ^= 1


@pytest.mark.parametrize(
    "damage",
    [
        cut_inside_a_file,
        cut_after_the_first_sample,
        break_a_header,
    ],
)
def test_damage_is_found_without_a_manifest(
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


def test_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="'test'"):
        Shards(folder, "test")
