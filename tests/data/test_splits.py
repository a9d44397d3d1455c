"""The split into training and held-out images."""

import numpy as np

from edm2.data.splits import split_classes

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 40, 2]))


def test_every_image_is_in_exactly_one_split() -> None:
    train, held_out = split_classes(LABELS, 0.15, seed=0)
    assert sorted([*train, *held_out]) == list(range(len(LABELS)))


def test_a_fraction_of_each_class_is_held_out_and_at_least_one_image() -> None:
    _, held_out = split_classes(LABELS, 0.15, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [15, 6, 1]


def test_every_class_has_training_images() -> None:
    train, _ = split_classes(LABELS, 0.8, seed=0)
    assert (np.bincount(LABELS[train], minlength=3) > 0).all()


def test_split_depends_on_the_seed_alone() -> None:
    first, same, other = (split_classes(LABELS, 0.15, seed) for seed in (0, 0, 1))
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
        assert set(a) != set(c)


def test_order_is_random() -> None:
    for indices in split_classes(LABELS, 0.4, seed=0):
        assert abs(np.corrcoef(indices, np.arange(len(indices)))[0, 1]) < 0.5
