"""Crops of the photographs that come with the packages."""

import socket
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from edm2.data.sources import Photos, open_source, photos
from edm2.params import Params, UserError
from edm2.params.seams import SOURCES

NAMES = [
    "astronaut",
    "cat",
    "coffee",
    "rocket",
    "retina",
    "galaxies",
    "tissue",
    "motorcycle",
    "pagoda",
    "flower",
]


@pytest.fixture(scope="module")
def at_32() -> Photos:
    return Photos(32)


def counts(source: Photos, indices: np.ndarray) -> np.ndarray:
    return np.bincount(source.labels[indices], minlength=len(source.classes))


def original(name: str) -> np.ndarray:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        return np.asarray(file)


def test_every_photograph_is_a_class(at_32: Photos) -> None:
    assert at_32.classes == NAMES
    everything = counts(at_32, np.arange(len(at_32.labels)))
    # 600×400 pixels have (600 - 32) // 16 + 1 = 36 columns and 24 rows of crops; 512×512 are halved
    # first, to 15 each way; 1411×1411 are reduced five times, to 283 and 16 each way
    assert everything[NAMES.index("coffee")] == 36 * 24
    assert everything[NAMES.index("astronaut")] == 15 * 15
    assert everything[NAMES.index("retina")] == 16 * 16


def test_source_is_opened_by_name(params: Params) -> None:
    dataset = params.dataset.model_copy(update={"source": "photos", "resolution": 32})
    source = open_source(dataset)
    assert source.classes == NAMES
    image = source.image(len(source.labels) - 1)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("a photograph is looked for elsewhere")

    monkeypatch.setattr(socket, "socket", refuse)
    Photos(64)


def test_crops_are_parts_of_the_photograph(at_32: Photos) -> None:
    """In rows from top to bottom; coffee is too small to be reduced."""
    coffee, found = original("coffee.png"), np.flatnonzero(at_32.labels == NAMES.index("coffee"))
    expected = [
        coffee[top : top + 32, left : left + 32]
        for top in range(0, 400 - 31, 16)
        for left in range(0, 600 - 31, 16)
    ]
    for index, crop in zip(found, expected, strict=True):
        np.testing.assert_array_equal(at_32.image(index), crop)


def test_large_photographs_are_reduced_to_means_of_blocks(at_32: Photos) -> None:
    blocks = original("retina.jpg")[:1410, :1410].reshape(282, 5, 282, 5, 3).mean(axis=(1, 3))
    reduced = at_32.photographs[NAMES.index("retina")]
    assert reduced.shape == (283, 283, 3)
    assert np.abs(reduced[:282, :282] - blocks).max() < 0.6  # rounded, after a rounded division


def numbered(photograph: np.ndarray) -> np.ndarray:
    """Pixels replaced by their number, as three bytes."""
    height, width, _ = photograph.shape
    number = np.arange(height * width).reshape(height, width)
    return np.stack([number % 256, number // 256 % 256, number // 65536], axis=2).astype(np.uint8)


def shown(source: Photos, indices: np.ndarray) -> list[np.ndarray]:
    """Which pixels of each photograph some of the crops show, by their numbers."""
    found = [np.zeros(photograph.size // 3, dtype=bool) for photograph in source.photographs]
    for index in indices:
        found[source.labels[index]][source.image(index).astype(int) @ [1, 256, 65536]] = True
    return found


@pytest.mark.parametrize("resolution", [16, 32, 33, 64, 128])
def test_training_and_held_out_crops_share_no_pixel(resolution: int) -> None:
    source = Photos(resolution)
    source.photographs = [numbered(photograph) for photograph in source.photographs]
    for seed, held_out in ((0, 0.15), (1, 0.4)):
        train, held = (shown(source, side) for side in source.split(held_out, seed))
        for ours, theirs in zip(train, held, strict=True):
            assert ours.any()
            assert theirs.any()
            assert not (ours & theirs).any()


def test_held_out_are_whole_columns_of_crops(at_32: Photos) -> None:
    """Next to each other, so that only those at their sides are lost."""
    train, held = at_32.split(0.15, seed=0)
    for label, photograph in enumerate(at_32.photographs):
        rows, columns = ((side - 32) // 16 + 1 for side in photograph.shape[:2])
        first = np.flatnonzero(at_32.labels == label)[0]
        column = np.unique((held[at_32.labels[held] == label] - first) % columns)
        assert np.ptp(column) == len(column) - 1
        assert counts(at_32, held)[label] == rows * len(column)
        lost = rows * columns - counts(at_32, held)[label] - counts(at_32, train)[label]
        assert lost in (rows, 2 * rows)


@pytest.mark.parametrize("held_out", [0.1, 0.15, 0.5])
def test_fraction_is_held_out_to_the_nearest_column(at_32: Photos, held_out: float) -> None:
    train, held = (counts(at_32, side) for side in at_32.split(held_out, seed=0))
    assert np.abs(held / (held + train) - held_out).max() < 1 / 13  # 15 columns at least, 13 remain
    assert held.sum() / (held + train).sum() == pytest.approx(held_out, abs=0.02)


@pytest.mark.parametrize("held_out", [0.01, 0.99])
def test_every_photograph_has_both_sides(held_out: float) -> None:
    source = Photos(SOURCES["photos"].max_resolution)
    for seed in range(30):
        assert all((counts(source, side) > 0).all() for side in source.split(held_out, seed))


def test_split_depends_on_the_seed_alone(at_32: Photos) -> None:
    one, same, other = (at_32.split(0.15, seed) for seed in (0, 0, 1))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(set(a)) == len(a)
        assert set(a) != set(c)
        assert abs(np.corrcoef(a, np.arange(len(a)))[0, 1]) < 0.1  # in random order


def test_photograph_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(photos.PHOTOGRAPHS, "skin", ("skimage", "data/skin.jpg"))
    with pytest.raises(UserError, match=r"data/skin\.jpg is not there: .*constraints\.txt"):
        Photos(32)


def test_photographs_of_one_size_are_held_out_in_different_places(at_32: Photos) -> None:
    def start(label: str, seed: int) -> int:
        members = np.flatnonzero(at_32.labels == NAMES.index(label))
        return min(set(members) & set(at_32.split(0.15, seed)[1])) - members[0]

    assert any(start("pagoda", seed) != start("flower", seed) for seed in range(3))


def test_identity_follows_the_photographs(
    monkeypatch: pytest.MonkeyPatch, at_32: Photos, tmp_path: Path
) -> None:
    before = at_32.identity()
    assert Photos(64).identity() == before
    installed = photos._installed

    def retouched(package: str, name: str) -> Path:
        path = tmp_path / Path(name).name
        Image.open(installed(package, name)).point(lambda value: value // 2).save(path)
        return path

    monkeypatch.setattr(photos, "_installed", retouched)
    assert Photos(32).identity() != before
