"""The order of images depends on (seed, number) alone; every epoch has every image once."""

from itertools import pairwise

import numpy as np
import pytest

from edm2.data import order as module
from edm2.data.order import BlockOrder, ImageOrder, RandomOrder
from edm2.params.runtime import lanes


def shards_of(size: int, shard: int) -> list[range]:
    return [range(start, min(start + shard, size)) for start in range(0, size, shard)]


def make(kind: str, size: int, batch: int = 12, seed: int = 0) -> ImageOrder:
    if kind == "random":
        return RandomOrder(size, seed)
    return BlockOrder(shards_of(size, 50), batch, seed)


both = pytest.mark.parametrize("kind", ["random", "blocks"])


@both
@pytest.mark.parametrize(("size", "batch"), [(103, 12), (1000, 64), (37, 128), (3, 6)])
def test_every_epoch_is_a_different_permutation(kind: str, size: int, batch: int) -> None:
    """For sizes that batches do not divide, and batches larger than the dataset."""
    images = make(kind, size, batch).indices(range(4 * size))
    epochs = [images[start : start + size] for start in range(0, 4 * size, size)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4 or size < 100


@both
def test_any_part_can_be_asked_for(kind: str) -> None:
    whole = make(kind, 103).indices(range(500))
    for start, stop in ((0, 12), (96, 108), (205, 209), (300, 500)):
        assert make(kind, 103).indices(range(start, stop)) == whole[start:stop]


@both
def test_the_seed_decides_the_order(kind: str) -> None:
    one, other = (make(kind, 103, seed=seed).indices(range(200)) for seed in (0, 1))
    assert make(kind, 103).indices(range(200)) == one
    assert one != other


def test_a_random_order_is_unrelated_to_neighbors() -> None:
    steps = np.diff(make("random", 10000).indices(range(10000)))
    assert np.abs(steps).mean() == pytest.approx(10000 / 3, rel=0.05)


def test_images_of_a_block_are_close_and_blocks_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane has the images of a block within the distance, counted in its own images."""
    monkeypatch.setattr(module, "SPREAD", 16 * 32)
    size, batch, lanes_ = 40_000, 16, 16
    order = BlockOrder(shards_of(size, 1600), batch, 0)
    images = np.array(order.indices(range(size // batch * batch))).reshape(-1, lanes_)
    for lane in images.T:  # one image of each batch
        blocks = lane // 16
        first = {block: np.flatnonzero(blocks == block) for block in np.unique(blocks)}
        spans = [places[-1] - places[0] for places in first.values()]
        assert max(spans) <= 2 * order.distance + 15  # the first image moves back, the last forth
        assert np.quantile(spans, 0.95) <= order.distance + 16
        starts = np.array([places[0] for places in first.values()])
        assert abs(np.corrcoef(starts, list(first))[0, 1]) < 0.3  # blocks are in random order
        assert np.mean(np.diff(lane) == 1) < 0.1  # and their images are not in sequence
    shared = sum(len(np.unique(lane // 16)) for lane in images.T)
    assert shared <= size / 16 + lanes_  # only the ends of segments share blocks


@pytest.mark.parametrize(
    ("batch", "count"), [(2048, 256), (128, 128), (96, 96), (300, 150), (257, 1), (1, 1)]
)
def test_lanes_are_the_largest_divisor_up_to_256(batch: int, count: int) -> None:
    assert lanes(batch) == count


def test_lanes_have_the_same_places_in_each_batch() -> None:
    """Whoever reads some lanes reads consecutive blocks: over an epoch each lane has N/L images or so."""
    order = BlockOrder(shards_of(103, 50), 12, 0)
    segments = order._segments(2)
    assert segments[0] == 0
    assert segments[-1] == 103
    counts = [sum(n % 12 == lane for n in range(206, 309)) for lane in range(12)]
    assert [b - a for a, b in pairwise(segments.tolist())] == counts
