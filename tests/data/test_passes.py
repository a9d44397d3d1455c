"""Passes over images that ranks share."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edm2.data import passes
from edm2.data.decoding import DamagedImageError
from edm2.data.images import ImageDataset
from edm2.data.passes import MergeTree, ahead, reduce_batches
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime import distributed
from edm2.runtime.distributed import share


class Numbered(ImageDataset):
    """Image i has the value i everywhere and the label 10 i; remembers what was read."""

    resolution, crop = 2, "lanczos"

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def load_image(self, index: int):
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(index)
        return torch.full((3, 2, 2), index, dtype=torch.uint8), 10 * index


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch):
    """on_ranks(size, run): run() on each of `size` simulated ranks, the main process last."""

    def run_all(size, run):
        sent = {}
        monkeypatch.setenv("WORLD_SIZE", str(size))
        for rank in reversed(range(size)):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setattr(
                passes,
                "receive_from_others",
                lambda value, rank=rank: (
                    [sent[k] for k in range(1, size)]
                    if rank == 0
                    else sent.update({rank: value}) or []
                ),
            )
            result = run()
            assert (result is None) == (rank > 0)
        return result

    return run_all


def float_sum(on_ranks, size, values, batch):
    images = Numbered(len(values))
    return on_ranks(
        size,
        lambda: reduce_batches(
            images,
            range(len(values)),
            batch,
            lambda numbers, pixels, labels: values[list(numbers)].sum(0),
            lambda a, b: a + b,
            "sum",
        ),
    )


@pytest.mark.parametrize("count", [1, 7, 64, 250])
def test_a_sum_has_the_same_bits_on_any_number_of_ranks(on_ranks, count):
    values = np.random.default_rng(count).normal(size=(count, 20))
    one, *others = (float_sum(on_ranks, size, values, 3) for size in (1, 2, 3, 5, 40))
    for other in others:
        assert other.tobytes() == one.tobytes()
    np.testing.assert_allclose(one, values.sum(0), rtol=1e-9)
    if count == 250:  # another order has other bits
        in_turn = sum(values[k : k + 3].sum(0) for k in range(0, count, 3))
        assert in_turn.tobytes() != one.tobytes()


def test_every_image_is_read_once_and_its_position_label_and_order_are_given(on_ranks):
    images, indices = Numbered(9), [4, 1, 8, 0, 2, 7, 3]
    result = on_ranks(
        3,
        lambda: reduce_batches(
            images,
            indices,
            2,
            lambda numbers, pixels, labels: [
                (list(numbers), pixels[:, 0, 0, 0].tolist(), labels.tolist())
            ],
            lambda a, b: a + b,
            "order",
        ),
    )
    assert result == [
        ([0, 1], [4, 1], [40, 10]),
        ([2, 3], [8, 0], [80, 0]),
        ([4, 5], [2, 7], [20, 70]),
        ([6], [3], [30]),
    ]
    assert sorted(images.read) == sorted(indices)


def test_shares_are_consecutive_and_even(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    parts = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(share(10))
    assert [n for part in parts for n in part] == list(range(10))
    assert {len(part) for part in parts} == {2, 3}


def test_a_tree_holds_few_values():
    tree = MergeTree(lambda a, b: a + b)
    for number in range(333, 1000):  # the part of a rank in the middle
        tree.add(number, [number])
        assert len(tree.nodes) <= 20
    assert tree.total() == list(range(333, 1000))


def test_an_error_of_another_rank_is_raised_on_the_main_process(monkeypatch):
    """Which would wait for its values forever."""

    def exchange(errors, own, group):
        errors[:] = [own, NotFiniteError("of rank 1"), UserError("of rank 2")]

    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(distributed, "_group", SimpleNamespace(control=None))
    monkeypatch.setattr(distributed, "_wait_for_others", lambda: None)
    monkeypatch.setattr(distributed.dist, "all_gather_object", exchange)
    monkeypatch.setattr(passes, "refuse_damaged", lambda *_: None)
    with pytest.raises(NotFiniteError, match="rank 1"):
        float_sum(lambda size, run: run(), 3, np.ones(4), 2)


class Damaged(Numbered):
    """Images 2 and 7 cannot be decoded."""

    def load_image(self, index: int):
        if index in (2, 7):
            raise DamagedImageError(f"{index}.png: damaged")

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.load_image(index)
        return super().__getitem__(index)


def test_all_damaged_images_are_listed():
    with pytest.raises(UserError) as error:
        reduce_batches(Damaged(9), [8, 7, 6, 3, 2, 0], 2, lambda *_: 0, min, "")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("2 of 6 images")
    assert [line.strip() for line in lines[1:]] == ["2.png: damaged", "7.png: damaged"]
    assert "then run this again:" in lines[0]
    assert reduce_batches(Damaged(9), [8, 6], 2, lambda *_: 0, min, "") == 0


def test_an_error_while_reading_or_computing_is_raised():
    def fail(*_):
        raise UserError("computing")

    with pytest.raises(UserError, match="computing"):
        reduce_batches(Numbered(3), range(3), 2, fail, min, "failing")
    with pytest.raises(NotImplementedError):
        reduce_batches(
            type("Unreadable", (Numbered,), {"__getitem__": Numbered.load_image})(3),
            range(3),
            2,
            fail,
            min,
            "failing",
        )


def test_the_next_item_is_made_while_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def items():
        for event in made:
            event.set()
            yield event

    for k, item in enumerate(ahead(items())):
        assert item is made[k]
        assert made[min(k + 1, 2)].wait(10)
    assert list(ahead([])) == []
