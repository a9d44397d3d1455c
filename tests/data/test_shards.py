"""Shards: compatible with `webdataset`, reproducible, and checked for damage."""

import hashlib
import os
import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset as wds

from edm2.data.shard_index import index_path
from edm2.data.shards import Shards, write_shard
from edm2.params import UserError
from edm2.runtime.files import sha256
from edm2.runtime.manifest import load_manifest, write_manifest
from edm2.runtime.records import read_record, record_path

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


def test_equal_samples_give_equal_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    monkeypatch.setattr("time.time", lambda: 2e9)  # on another day
    write_shard(tmp_path / "b.tar", iter(SAMPLES))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    a, b = (tmp_path / f"{name}.tar.index.npy" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_items_are_read_in_any_order(folder: Path) -> None:
    shards = Shards(folder, "train")
    assert len(shards) == 5
    assert [shards[i] for i in (4, 0, 3, 2, 1)] == [CONTENTS[i] for i in (4, 0, 3, 2, 1)]
    assert shards.metadata["size"] == 8
    assert len(Shards(folder, "held_out")) == 1


def test_by_shard_gives_the_items_of_each_shard(folder: Path) -> None:
    expected = {"train-000000.tar": range(3), "train-000001.tar": range(3, 5)}
    assert Shards(folder, "train").by_shard() == expected


def test_a_shard_appears_when_it_is_complete(tmp_path: Path) -> None:
    def samples():
        yield SAMPLES[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_shard(tmp_path / "a.tar", samples())
    assert not list(tmp_path.iterdir())


def test_the_record_describes_what_was_written(folder: Path) -> None:
    path = folder / "train-000001.tar"
    index = index_path(path)
    assert read_record(path)["files"] == {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path), "samples": 2},
        index.name: {"bytes": index.stat().st_size, "sha256": sha256(index)},
    }


def test_a_summary_is_taken_after_the_last_sample(tmp_path: Path) -> None:
    sizes: list[int] = []
    samples = (sizes.append(len(sample["png"])) or sample for sample in SAMPLES)
    write_shard(tmp_path / "a.tar", samples, lambda: {"pixels": sum(sizes)})
    assert read_record(tmp_path / "a.tar")["pixels"] == 700 * (1 + 2 + 3 + 4)


def test_a_manifest_of_shards_reads_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "train-000000.tar", SAMPLES)
    expected = {path.name: sha256(path) for path in tmp_path.iterdir()}
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda f, *args: (read.append(Path(f.name)), digest(f, *args))[1]
    )
    write_manifest(tmp_path)
    assert read == [record_path(tmp_path / "train-000000.tar")]
    files = load_manifest(tmp_path)["files"]
    assert {name: entry["sha256"] for name, entry in files.items()} == expected


def test_a_shard_that_changed_before_the_manifest_was_written_is_named(folder: Path) -> None:
    truncate(folder / "train-000001.tar")
    with pytest.raises(UserError, match=r"train-000001\.tar: .* bytes"):
        write_manifest(folder)


def test_the_index_is_where_tarfile_finds_the_files(folder: Path) -> None:
    path = folder / "train-000000.tar"
    with tarfile.open(path) as tar:
        members = [(m.offset_data, m.size) for m in tar]
    shards = Shards(folder, "train")
    shards[0]
    rows = shards._open(0).rows
    assert list(zip(rows["offset"].tolist(), rows["size"].tolist(), strict=True)) == members


def test_a_range_is_read_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, reads, pread = Shards(folder, "train"), [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: (reads.append(args), pread(*args))[1])
    assert shards.ranges() == [range(3), range(3, 5)]
    assert shards.read_range(0, 3) == CONTENTS[:3]
    assert shards.read_range(4, 5) == CONTENTS[4:]
    assert len(reads) == 2
    assert shards[1] == CONTENTS[1]
    assert len(reads) == 3
    for bounds in ((2, 4), (4, 6), (-1, 1), (1, 1)):
        with pytest.raises(IndexError):
            shards.read_range(*bounds)
    with pytest.raises(IndexError):
        shards[5]


def test_opening_reads_no_shard(folder: Path) -> None:
    """Only the sizes: the contents are not what they were, and an index is missing at the first read."""
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    shards = Shards(folder, "train")
    assert len(shards) == 5
    index_path(path).unlink()
    with pytest.raises(UserError, match=rf"{index_path(path).name}: .*edm2 verify"):
        shards[0]
    assert shards[3] == CONTENTS[3]


@pytest.mark.parametrize("part", ["png", "cls"])
def test_a_flipped_bit_is_found_when_the_sample_is_read(folder: Path, part: str) -> None:
    path = folder / "train-000000.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember(f"00000001.{part}")
    with path.open("r+b") as file:
        file.seek(member.offset_data)
        file.write(b"\x07")
    shards = Shards(folder, "train")
    assert (shards[0], shards[2]) == (CONTENTS[0], CONTENTS[2])
    with pytest.raises(UserError, match=rf"{path}: sample 1 is damaged.*edm2 verify"):
        shards[1]
    with pytest.raises(UserError, match="sample 1 is damaged"):
        shards.read_range(0, 3)


def test_a_damaged_index_is_named(folder: Path) -> None:
    index = index_path(folder / "train-000001.tar")
    content = bytearray(index.read_bytes())
    content[-1] ^= 1
    index.write_bytes(content)
    with pytest.raises(UserError, match=rf"{index}: .*edm2 verify"):
        Shards(folder, "train")[3]


def test_shards_without_an_index_are_named(tmp_path: Path) -> None:
    with wds.TarWriter(str(tmp_path / "train-000000.tar"), encoder=False) as writer:
        writer.write(dict(SAMPLES[0]))
    write_manifest(tmp_path)
    with pytest.raises(UserError, match=r"train-000000\.tar: has no index.*dvc repro"):
        Shards(tmp_path, "train")


def test_few_shards_are_open_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def descriptors() -> int:
        return sum(str(folder) in os.readlink(f"/proc/self/fd/{k}") for k in open_numbers())

    def open_numbers() -> list[str]:
        return [
            name for name in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{name}").exists()
        ]

    monkeypatch.setattr("edm2.data.shards._descriptors", lambda needed: 4)
    shards = Shards(folder, "train")
    for index in (0, 4, 1, 3):
        assert shards[index] == CONTENTS[index]
        assert descriptors() == 2  # the tar, and the mapping of its index
    del shards
    assert descriptors() == 0


def test_a_pickled_copy_and_threads_read_the_same(folder: Path) -> None:
    shards = Shards(folder, "train")
    shards[0]
    copy = pickle.loads(pickle.dumps(shards))
    order = [4, 0, 3, 2, 1] * 20
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.__getitem__, order)) == [CONTENTS[k] for k in order]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_damaged_shard_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    path = folder / "train-000001.tar"
    damage(path)
    with pytest.raises(UserError, match="dvc repro") as error:
        Shards(folder, "train")
    assert str(path) in str(error.value)


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="'test'"):
        Shards(folder, "test")
