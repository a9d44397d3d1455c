"""Images that are stored in shards, and images that are read from their source: the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edm2.data.decoding import FEW_BITS, DamagedImageError
from edm2.data.images import ImageShards
from edm2.data.passes import reduce_batches
from edm2.data.preparation import prepare_images
from edm2.data.prepared import SourceImages, list_images, open_images
from edm2.data.sources import open_source
from edm2.params import UserError
from edm2.params.dataset import Dataset
from edm2.runtime.manifest import write_manifest

SPLITS = ("train", "held_out")


@pytest.fixture
def pictures(root: Path) -> Path:
    """Pictures of different sizes and modes in two classes, below the project's root."""
    rng = np.random.default_rng(0)
    for number in range(22):
        width, height = rng.integers(8, 40, 2).tolist()
        channels = (3, 4)[number % 2]
        pixels = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
        path = root / "pictures" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root / "pictures"


@pytest.fixture
def of_folder(dataset: Dataset, pictures: Path) -> Dataset:
    return dataset.model_copy(update={"source": "folder", "path": "pictures", "stored": False})


def listed_images(dataset: Dataset, folder: Path) -> list:
    """Both splits, after the images were listed in `folder`."""
    write_manifest(folder, **list_images(open_source(dataset), folder, dataset, seed=3))
    return open_images(folder, *SPLITS)


@pytest.mark.parametrize(("resolution", "crop"), [(12, "lanczos"), (12, "adm"), (64, "adm")])
def test_images_from_the_source_are_those_of_the_shards(
    of_folder, tmp_path, resolution, crop
) -> None:
    dataset = of_folder.model_copy(update={"resolution": resolution, "crop": crop})
    metadata = prepare_images(open_source(dataset), tmp_path / "s", dataset, seed=3, workers=0)
    write_manifest(tmp_path / "s", **metadata)
    stored = open_images(tmp_path / "s", *SPLITS)
    for shards, images in zip(stored, listed_images(dataset, tmp_path / "l"), strict=True):
        assert isinstance(shards, ImageShards)
        assert isinstance(images, SourceImages)
        assert images.by_shard() == shards.by_shard()
        for key in ("classes", "resolution", "crop"):
            assert getattr(images, key) == getattr(shards, key)
        assert len(images) == len(shards) > 2
        every = range(len(images))
        for ours, theirs in zip(images.batch(every), shards.batch(every), strict=True):
            assert torch.equal(ours, theirs)
        ours, theirs = (
            split.augmented_batch(
                every, (np.random.default_rng(n) for n in every), min_area=0.5, flip=0.5
            )
            for split in (images, shards)
        )
        assert torch.equal(ours, theirs)


def test_the_list_is_small_and_names_the_source(of_folder: Dataset, tmp_path: Path) -> None:
    listed_images(of_folder, tmp_path / "l")
    arrays = {split: np.load(tmp_path / f"l/{split}.npy") for split in SPLITS}
    assert {path.name for path in (tmp_path / "l").iterdir()} == {
        "train.npy",
        "held_out.npy",
        "manifest.json",
    }
    assert sorted(np.concatenate(list(arrays.values()))) == list(range(22))


@pytest.mark.parametrize("change", ["another", "fewer", "added"])
def test_a_source_that_changed_is_refused(of_folder, pictures, tmp_path, change) -> None:
    listed_images(of_folder, tmp_path / "l")
    file = pictures / "a/00.png"
    if change == "fewer":
        file.unlink()
    else:
        Image.new("RGB", (9, 9)).save(file if change == "another" else pictures / "a/99.png")
    with pytest.raises(UserError, match="dvc repro -f -s prepare") as error:
        open_images(tmp_path / "l", "train")
    assert str(tmp_path / "l") in str(error.value)


def test_damaged_images_are_named(of_folder: Dataset, pictures: Path, tmp_path: Path) -> None:
    files = [pictures / "a/04.png", pictures / "b/07.png"]
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    images, held_out = listed_images(of_folder, tmp_path / "l")
    found = images.damaged(range(len(images))) + held_out.damaged(range(len(held_out)))
    assert sorted(text.split(": ")[0] for text in found) == [str(file) for file in files]
    split = images if images.damaged(range(len(images))) else held_out
    with pytest.raises(DamagedImageError, match=r"(04|07)\.png: .*dvc repro -f -s prepare"):
        split.batch(range(len(split)))
    rngs = (np.random.default_rng(0) for _ in range(len(split)))
    with pytest.raises(DamagedImageError, match=r"(04|07)\.png"):
        split.augmented_batch(range(len(split)), rngs, min_area=1, flip=0)
    every = range(len(split))
    with pytest.raises(
        UserError, match="Replace or remove these, then run `dvc repro -f -s prepare"
    ):
        reduce_batches(split, every, 4, lambda *_: 0, lambda a, b: 0, "nothing")


def test_doubtful_images_are_those_that_were_read(of_folder, pictures, tmp_path) -> None:
    """Not what the scan finds, which was printed with the list."""
    for path in pictures.rglob("*.png"):
        path.unlink()
    for number in range(8):
        dark = np.full((9, 9), 9 if number < 4 else 60000, dtype=np.uint16)
        (pictures / f"a/sub{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(dark).save(pictures / f"a/sub{number % 2}/{number}.png")
    (pictures / "b").rmdir()
    assert open_source(of_folder).doubtful.counts.total() == 1
    images, held_out = listed_images(of_folder, tmp_path / "l")
    assert not images.doubtful.counts
    for split in (images, held_out):
        split.batch(range(len(split)))
    assert images.doubtful.counts == {FEW_BITS: 4}
