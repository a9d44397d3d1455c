"""The stream of batches depends on (seed, image number) alone."""

from itertools import chain, islice

import pytest

from edm2.data.stream import shuffled_index, stream
from edm2.runtime.distributed import Ranks

SIZE, BATCH = 10, 4


def take(count: int, nimg: int = 0, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Image numbers and indices of the first `count` batches from `nimg` on."""
    batches = stream(lambda numbers, indices: (list(numbers), indices), SIZE, BATCH, seed, nimg)
    first = list(islice(batches, count))
    batches.close()
    return first


def indices(count: int, **options: int) -> list[int]:
    return list(chain.from_iterable(batch for _, batch in take(count, **options)))


def test_every_epoch_is_a_different_permutation() -> None:
    images = indices(10)  # 40 images are 4 epochs; some batches span two of them
    epochs = [images[start : start + SIZE] for start in range(0, 40, SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_numbers_count_the_images_of_the_run() -> None:
    numbers = [n for numbers, _ in take(5) for n in numbers]
    assert numbers == list(range(20))
    assert indices(5) == [shuffled_index(n, SIZE, 0) for n in range(20)]


@pytest.mark.parametrize("skipped", [1, 2, 3, 7])
def test_starting_later_gives_the_same_batches(skipped: int) -> None:
    assert take(4, nimg=skipped * BATCH) == take(skipped + 4)[skipped:]


def test_the_seed_decides_the_order() -> None:
    assert indices(5, seed=1) == indices(5, seed=1)
    assert indices(5, seed=1) != indices(5, seed=0)


@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_of_all_ranks_make_up_the_batch_of_one(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = take(6), []
    for rank in range(size):
        monkeypatch.setattr("edm2.data.stream.ranks", lambda rank=rank: Ranks(rank, size, rank))
        parts.append(take(6))
    for step, (numbers, images) in enumerate(whole):
        assert list(chain.from_iterable(part[step][0] for part in parts)) == numbers
        assert list(chain.from_iterable(part[step][1] for part in parts)) == images


def test_a_batch_larger_than_the_dataset_repeats_images() -> None:
    batches = stream(lambda numbers, indices: indices, 3, 6, 0, 0)
    assert sorted(next(batches)) == [0, 0, 1, 1, 2, 2]
    batches.close()


def test_read_errors_are_raised_in_the_training_thread() -> None:
    def read(numbers: range, indices: list[int]) -> int:
        if 8 in numbers:
            raise ConnectionError
        return numbers.start

    batches = stream(read, SIZE, BATCH, 0, 0)
    assert [next(batches), next(batches)] == [0, 4]
    with pytest.raises(ConnectionError):
        next(batches)
