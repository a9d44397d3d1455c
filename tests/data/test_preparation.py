"""From a source to shards and a manifest."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edm2.data.damage import refuse_damaged
from edm2.data.decoding import DamagedImageError, Pixels
from edm2.data.images import ImageShards
from edm2.data.preparation import prepare_images, write_shards
from edm2.data.tally import Tally
from edm2.params import UserError
from edm2.params.dataset import Dataset
from edm2.runtime.distributed import Ranks
from edm2.runtime.files import replacing
from edm2.runtime.manifest import write_manifest
from edm2.runtime.temporaries import remove_left_in

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
    write_manifest(tmp_path, **prepare_images(source, tmp_path, dataset, seed=0, workers=0))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.tar")}


def test_metadata_counts_the_images(tmp_path: Path, source, dataset: Dataset) -> None:
    metadata = prepare_images(source, tmp_path, dataset, seed=0, workers=0)
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
    prepare_images(source, again, dataset, seed=0, workers=0)
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in SHARDS)


def test_any_number_of_ranks_and_workers_gives_the_same_bytes(
    folder: Path, source, dataset, tmp_path_factory, monkeypatch
) -> None:
    for world_size in (1, 2):
        together = tmp_path_factory.mktemp("together")
        for rank in range(world_size):
            process = Ranks(rank, world_size, rank)
            monkeypatch.setattr("edm2.data.preparation.ranks", lambda process=process: process)
            before = names(together)
            metadata = prepare_images(source, together, dataset, seed=0, workers=2)
            assert metadata["images"] == {"train": 15, "held_out": 5}
            assert len(names(together) - before) == 6 // world_size
        assert names(together) == SHARDS
        assert all((together / n).read_bytes() == (folder / n).read_bytes() for n in SHARDS)


def test_the_main_process_lists_the_damaged_images_of_all_ranks(monkeypatch) -> None:
    monkeypatch.setattr("edm2.data.damage.gather_object", lambda value: [value, ["b"], []])
    with pytest.raises(UserError, match=r"3 of 9 images.*\n  a\n  b\n  c$"):
        refuse_damaged(["c", "a"], 9)
    with pytest.raises(UserError, match="1 of 9 images"):
        refuse_damaged([], 9)


@pytest.fixture
def doubtful(source):
    """A source with images that are doubtful (even numbers) and damaged (multiples of five)."""

    class Doubtful(type(source)):
        def image(self, index: int) -> Pixels:
            if index % 2 == 0:
                self.doubtful.add("dark", str(index))
            if index % 5 == 0:
                raise DamagedImageError(f"{index}.png: damaged")
            return super().image(index)

    this = Doubtful()
    this.doubtful = Tally()
    this.doubtful.add("of the scan", "folder")
    return this


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_report_what_they_find(tmp_path: Path, doubtful, dataset, workers: int) -> None:
    with pytest.raises(UserError) as error:
        prepare_images(doubtful, tmp_path, dataset, seed=0, workers=workers)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [f"{index}.png: damaged" for index in (0, 10, 15, 5)]
    assert doubtful.doubtful.counts == {"of the scan": 1, "dark": 10}
    first = [str(index) for index in doubtful.split(0.25, 0)[0] if index % 2 == 0][:3]
    assert doubtful.doubtful.examples == {
        "of the scan": ["folder"],
        "dark": first,
    }  # in order of the shards


@pytest.mark.parametrize(
    ("images", "resolution", "expected"),
    [(2047, 16, 0), (2048, 16, 6), (2047, 64, 0), (31, 512, 0), (32, 512, 6)],
)
def test_small_datasets_start_no_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images, resolution, expected
) -> None:
    """Small: fewer than 2048 images, or fewer pixels than as many of 64×64."""
    monkeypatch.setattr("edm2.data.preparation.cores", lambda: 6)
    monkeypatch.setattr(
        "edm2.data.preparation.in_workers",
        lambda start, tasks, workers: started.append((len(tasks), workers)) or [],
    )
    started: list[tuple[int, int]] = []
    shards = [(tmp_path / "a.tar", np.arange(images))]
    for workers in (None, 3):
        assert list(write_shards(lambda: None, shards, resolution, workers, "x")) == []
    assert started == [(1, expected), (1, 3)]


@pytest.mark.parametrize("lost", [".record.json", ".index.npy"])
def test_a_shard_that_has_lost_a_file_is_written_again(
    folder: Path, source, dataset: Dataset, lost: str
) -> None:
    (folder / f"train-000001.tar{lost}").unlink()
    source.reads.clear()
    write_manifest(folder, **prepare_images(source, folder, dataset, seed=0, workers=0))
    assert (len(source.reads), len(ImageShards(folder, "train"))) == (4, 15)


def test_existing_shards_are_kept(folder: Path, source, dataset: Dataset) -> None:
    before = {name: (folder / name).stat().st_mtime_ns for name in SHARDS}
    content = (folder / "train-000001.tar").read_bytes()
    (folder / "train-000001.tar").unlink()
    source.reads.clear()
    metadata = prepare_images(source, folder, dataset, seed=0, workers=0)
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
    remove_left_in(folder)  # every stage does this when it starts
    write_manifest(folder, **prepare_images(source, folder, dataset, seed=0, workers=0))
    assert names(folder) == SHARDS
    assert len(ImageShards(folder, "train")) == 15


def test_the_source_decides_the_split(tmp_path: Path, source, dataset: Dataset, pixels_of) -> None:
    """Images in neither split are left out."""
    source.split = lambda held_out, seed: (np.array([7, 3]), np.array([4]))
    metadata = prepare_images(source, tmp_path, dataset, seed=0, workers=0)
    write_manifest(tmp_path, **metadata)
    assert metadata["images"] == {"train": 2, "held_out": 1}
    assert metadata["images_per_class"] == {"train": [1, 1], "held_out": [1, 0]}
    for split, indices in (("train", [7, 3]), ("held_out", [4])):
        images, _ = ImageShards(tmp_path, split).batch(range(len(indices)))
        np.testing.assert_array_equal(images, [pixels_of(index) for index in indices])
