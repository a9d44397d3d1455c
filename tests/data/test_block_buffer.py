"""Blocks of neighbors are read at once; samples are the same as without."""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edm2.data import order
from edm2.data.block_buffer import BlockBuffer
from edm2.data.latents import LatentShards, latent_sample
from edm2.data.shards import OpenShard, write_shard
from edm2.data.stream import stream
from edm2.diffusion.batches import StoredLatents
from edm2.runtime.manifest import write_manifest

CPU, SIZE = torch.device("cpu"), 330


@pytest.fixture
def latents(tmp_path: Path) -> LatentShards:
    """330 latents in shards of 100, each with its own values."""
    for shard, start in enumerate(range(0, SIZE, 100)):
        numbers = range(start, min(start + 100, SIZE))
        samples = [
            latent_sample(
                f"{n:08d}", torch.full((1, 2, 2), float(n)), torch.full((1, 2, 2), 0.5), n
            )
            for n in numbers
        ]
        write_shard(tmp_path / f"train-{shard:06d}.tar", samples)
    write_manifest(tmp_path, classes=["a"], shape=[1, 2, 2], mean=[0.0], std=[1.0])
    return LatentShards(tmp_path, "train")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of each read."""
    counts, read = [], OpenShard.read

    def counted(shard: OpenShard, start: int, stop: int) -> list[dict[str, bytes]]:
        counts.append(stop - start)
        return read(shard, start, stop)

    monkeypatch.setattr(OpenShard, "read", counted)
    return counts


def test_an_epoch_in_blocks_reads_each_block_once_or_twice(latents, reads, monkeypatch) -> None:
    """Also from the middle of an epoch, where samples of before are read with the others."""
    monkeypatch.setattr(order, "SPREAD", 64)
    runtime = SimpleNamespace(workers=0, reading="blocks")
    batches = stream(StoredLatents(latents), 2, 0, 0, runtime, CPU)  # of two lanes
    labels = []
    for _, mean, std, label in islice(batches, SIZE // 2):
        assert torch.equal(mean[:, 0, 0, 0], label.half())
        assert torch.equal(std, torch.full((2, 1, 2, 2), 0.5).half())
        labels += label.tolist()
    batches.close()
    assert sorted(labels) == list(range(SIZE))
    blocks = (
        3 * 7 + 2
    )  # of 16 samples, with the last ones of each shard: 100 = 6·16 + 4, 30 = 16 + 14
    assert blocks <= len(reads) <= blocks + 1 + 2  # two segments; the next epoch is read ahead
    later = stream(StoredLatents(latents), 2, 0, 100, runtime, CPU)
    resumed = [n for *_, label in islice(later, 50) for n in label.tolist()]
    later.close()
    assert resumed == labels[100:200]


def test_what_the_buffer_has_dropped_is_read_again(latents, reads) -> None:
    buffer = BlockBuffer(latents.shards, capacity=2)
    indices = [0, 16, 32, 1, 1, 99, 100, 329, 17]
    assert [int(buffer.take(index)["cls"]) for index in indices] == indices
    assert len(buffer._blocks) == 2
    # 1 and 17 were dropped, and 1 was taken; 99 and 329 are in the last blocks of their shards
    assert reads == [16, 16, 16, 16, 16, 4, 16, 14, 16]


def test_random_reading_reads_each_sample_at_once(latents, reads) -> None:
    runtime = SimpleNamespace(workers=0, reading="random")
    batches = stream(StoredLatents(latents), 6, 0, 0, runtime, CPU)
    next(batches)
    batches.close()
    assert set(reads) == {1}
