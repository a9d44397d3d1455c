"""From a source to shards and a manifest."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edm2.data.images import ImageShards
from edm2.data.preparation import prepare_images
from edm2.params.dataset import Dataset
from edm2.runtime.files import remove_partial, replacing
from edm2.runtime.manifest import write_manifest

SHARDS = {
    "train-000000.tar",
    "train-000001.tar",
    "train-000002.tar",
    "train-000003.tar",
    "held_out-000000.tar",
    "held_out-000001.tar",
}


@pytest.fixture
def folder(tmp_path: Path, source, dataset: Dataset) -> Path:
    write_manifest(tmp_path, **prepare_images(source, tmp_path, dataset, seed=0))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.tar")}


def test_metadata_counts_the_images(tmp_path: Path, source, dataset: Dataset) -> None:
    metadata = prepare_images(source, tmp_path, dataset, seed=0)
    assert metadata == {
        "source": "digits",  # from params
        "resolution": 8,
        "crop": "lanczos",
        "classes": ["a", "b"],
        "images": {"train": 15, "held_out": 5},  # a quarter of 12 and of 8
        "images_per_class": {"train": [9, 6], "held_out": [3, 2]},
    }
    assert names(tmp_path) == SHARDS  # 15 and 5 images, 4 a shard


def test_shards_contain_every_image_once(folder: Path, pixels_of) -> None:
    counts = Counter()
    for split in ("train", "held_out"):
        images = ImageShards(folder, split)
        for image, label in (images[i] for i in range(len(images))):
            counts[image.numpy().tobytes(), label] += 1
    expected = Counter(
        (np.ascontiguousarray(pixels_of(i)).tobytes(), [0, 1, 0, 1, 0][i % 5]) for i in range(20)
    )
    assert counts == expected


def test_the_same_seed_gives_the_same_bytes(
    folder: Path, source, dataset, tmp_path_factory
) -> None:
    again = tmp_path_factory.mktemp("again")
    prepare_images(source, again, dataset, seed=0)
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in SHARDS)


def test_existing_shards_are_kept(folder: Path, source, dataset: Dataset) -> None:
    before = {name: (folder / name).stat().st_mtime_ns for name in SHARDS}
    content = (folder / "train-000001.tar").read_bytes()
    (folder / "train-000001.tar").unlink()
    source.reads.clear()
    metadata = prepare_images(source, folder, dataset, seed=0)
    assert len(source.reads) == 4
    assert (folder / "train-000001.tar").read_bytes() == content
    for name in SHARDS - {"train-000001.tar"}:
        assert (folder / name).stat().st_mtime_ns == before[name]
    assert metadata["images"] == {"train": 15, "held_out": 5}


def test_a_partial_shard_of_a_killed_process_is_ignored(
    folder: Path, source, dataset: Dataset
) -> None:
    with replacing(folder / "train-000001.tar") as temporary:
        temporary.write_bytes(b"")
        name = temporary.name.replace(".partial", "1.partial")  # from another process
    (folder / name).write_bytes(b"half a tar")
    (folder / "train-000001.tar").unlink()
    remove_partial(folder)  # every stage does this when it starts
    write_manifest(folder, **prepare_images(source, folder, dataset, seed=0))
    assert names(folder) == SHARDS
    assert len(ImageShards(folder, "train")) == 15


def test_the_source_decides_the_split(tmp_path: Path, source, dataset: Dataset, pixels_of) -> None:
    """Images in neither split are left out."""
    source.split = lambda held_out, seed: (np.array([7, 3]), np.array([4]))
    metadata = prepare_images(source, tmp_path, dataset, seed=0)
    write_manifest(tmp_path, **metadata)
    assert metadata["images"] == {"train": 2, "held_out": 1}
    assert metadata["images_per_class"] == {"train": [1, 1], "held_out": [1, 0]}
    for split, indices in (("train", [7, 3]), ("held_out", [4])):
        images, _ = ImageShards(tmp_path, split).batch(range(len(indices)))
        np.testing.assert_array_equal(images, [pixels_of(index) for index in indices])
