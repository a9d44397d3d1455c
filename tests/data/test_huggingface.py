"""Datasets that the package `datasets` reads: save_to_disk, parquet files and imagefolder."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edm2.data.decoding import DamagedImageError
from edm2.data.sources import FileSource, open_source
from edm2.params import UserError

datasets = pytest.importorskip("datasets")
NAMES = ["tench", "goldfish"]
FEATURES = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def images(count: int) -> list[Image.Image]:
    """Image k is gray 10·k."""
    return [Image.new("RGB", (6, 6), (10 * k,) * 3) for k in range(count)]


def rows(labels: list, **features: object) -> "datasets.Dataset":
    columns = {"image": images(len(labels)), "label": labels}
    return datasets.Dataset.from_dict(columns, datasets.Features({**FEATURES, **features}))


@pytest.fixture
def hub(dataset):
    def open_hub(path: object, **changes: object) -> FileSource:
        update = {"source": "huggingface", "path": str(path), "resolution": 4, **changes}
        return open_source(dataset.model_copy(update=update))

    return open_hub


@pytest.fixture
def error_of(hub):
    def get(path: object, **changes: object) -> str:
        with pytest.raises(UserError) as error:
            hub(path, **changes)
        return str(error.value)

    return get


def grays(source: FileSource) -> list[int]:
    return [int(source.image(k)[0, 0, 0]) for k in range(len(source.labels))]


def test_save_to_disk(hub, tmp_path: Path) -> None:
    rows([0, 1, 1, 0]).save_to_disk(tmp_path / "disk")
    source = hub("disk")
    assert source.classes == NAMES
    assert source.labels.tolist() == [0, 1, 1, 0]
    assert grays(source) == [0, 10, 20, 30]
    content = pickle.dumps(source)
    assert len(content) < 10_000
    assert grays(pickle.loads(content)) == [0, 10, 20, 30]


def test_parquet_files_as_the_hub_has_them(hub, error_of, tmp_path: Path) -> None:
    data = tmp_path / "hub/data"
    data.mkdir(parents=True)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        rows([0, 1]).to_parquet(data / f"{name}.parquet")
    message = error_of("hub")
    assert f"dataset.path to {data}/train*.parquet" in message
    assert f"dataset.held_out_path to {data}/validation*.parquet" in message
    paths = {"path": f"{data}/train*.parquet", "held_out_path": f"{data}/validation*.parquet"}
    source = hub(**paths, held_out=None)
    assert (source.labels.tolist(), source.held_out_images) == ([0, 1] * 3, 2)
    assert grays(source) == [0, 10] * 3
    before = source.identity()
    rows([1, 0, 1]).to_parquet(data / "train-00000-of-00002.parquet")
    assert hub(**paths, held_out=None).identity() != before


def test_a_folder_of_parquet_files_of_one_split(hub, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    rows([0, 1, 0, 1]).to_parquet(tmp_path / "hub/train.parquet")
    (tmp_path / "hub/README.md").write_text("about it")
    source = hub("hub")
    assert len(source.labels) == 4
    assert list(source.left_out.examples.values()) == [["README.md"]]


def test_splits_of_save_to_disk_are_named(hub, error_of, tmp_path: Path) -> None:
    splits = {"train": rows([0, 1]), "validation": rows([1, 0])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "disk")
    message = error_of("disk")
    for name in ("dataset.path to {}/train", "dataset.held_out_path to {}/validation"):
        assert name.format(tmp_path / "disk") in message
    paths = {"path": "disk/train", "held_out_path": "disk/validation", "held_out": None}
    assert hub(**paths).labels.tolist() == [0, 1, 1, 0]
    datasets.DatasetDict({"all": rows([0, 1, 1, 0])}).save_to_disk(tmp_path / "single")
    assert hub("single").labels.tolist() == [0, 1, 1, 0]


def test_imagefolder_counts_what_datasets_passes_over(hub, error_of, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for k, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
            path = tmp_path / "folder" / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images(4)[k].save(path)
    assert f"dataset.path to {tmp_path}/folder/train" in error_of("folder")
    shutil.copy(tmp_path / "folder/train/a/0.png", tmp_path / "folder/train/a/no_ending")
    (tmp_path / "folder/train/notes.txt").write_text("about it")
    source = hub("folder/train")
    assert source.classes == ["a", "b"]
    assert sorted(grays(source)) == [0, 10, 20, 30]
    named = sorted(name for names in source.left_out.examples.values() for name in names)
    assert named == ["a/no_ending", "notes.txt"]


def test_ambiguous_columns_are_named_in_params(hub, error_of, tmp_path: Path) -> None:
    table = rows([0, 1, 0, 1]).add_column("text", ["b", "a", "b", "a"])
    table = table.add_column("coarse", [1, 0, 0, 1])
    table.save_to_disk(tmp_path / "disk")
    assert hub("disk", label_field="text").classes == ["a", "b"]
    assert hub("disk", label_field="text").labels.tolist() == [1, 0, 1, 0]
    assert hub("disk", label_field="coarse").labels.tolist() == [1, 0, 0, 1]
    message = error_of("disk", label_field="fine")
    assert "dataset.label_field: fine" in message
    assert all(name in message for name in ("text", "coarse"))
    table.remove_columns("label").save_to_disk(tmp_path / "without")
    assert "ClassLabel" in error_of("without")
    double = table.add_column("mask", [b""] * 4).cast_column("mask", datasets.Image())
    double.save_to_disk(tmp_path / "double")
    assert "dataset.image_field" in error_of("double")
    assert grays(hub("double", image_field="image")) == [0, 10, 20, 30]
    assert "dataset.image_field: coarse" in error_of("disk", image_field="coarse")


def test_rows_without_class_or_image_are_named(hub, error_of, tmp_path: Path) -> None:
    rows([0, -1, None, 1]).save_to_disk(tmp_path / "disk")
    message = error_of("disk")
    assert "2 of 4" in message
    assert "row 1" in message
    assert "row 2" in message
    columns = {"image": [*images(3), None], "label": [0, 0, 1, 1]}
    datasets.Dataset.from_dict(columns, datasets.Features(FEATURES)).save_to_disk(tmp_path / "x")
    source = hub("x")
    with pytest.raises(DamagedImageError, match="row 3.*null"):
        source.image(3)


def test_a_row_that_arrow_cannot_read_is_named(hub, tmp_path: Path) -> None:
    rows([0, 0, 1, 1]).save_to_disk(tmp_path / "disk")
    (arrow,) = (tmp_path / "disk").glob("*.arrow")
    content = arrow.read_bytes()
    ends = np.cumsum([0, *(len(hub("disk").parts[0].read(k)) for k in range(4))])
    place = content.index(ends.astype("<i4").tobytes()) + 4 * 2  # the start of image 2
    changed = content[:place] + np.int32(ends[4] + 9).tobytes() + content[place + 4 :]
    arrow.unlink()  # it is mapped into memory
    arrow.write_bytes(changed)
    with pytest.raises(DamagedImageError, match="disk: row 2: .*SystemError"):
        hub("disk").image(2)


def test_classes_are_those_of_the_feature_even_without_rows(error_of, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["a", "b", "c"])
    rows([2, 2], label=label).save_to_disk(tmp_path / "disk")
    lines = error_of("disk").splitlines()
    assert len(lines) == 2
    assert all(f"class {name}:" in line for name, line in zip("ab", lines, strict=True))


def test_held_out_labels_follow_names_and_not_their_order(hub, tmp_path: Path) -> None:
    rows([0, 0, 1]).save_to_disk(tmp_path / "train")
    rows([0, 1, 1], label=datasets.ClassLabel(names=NAMES[::-1])).save_to_disk(tmp_path / "val")
    source = hub("train", held_out_path="val", held_out=None)
    assert source.classes == NAMES
    assert source.labels.tolist() == [0, 0, 1, 1, 0, 0]


def test_something_else_is_refused(error_of, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    for path in ("empty", "no.parquet"):
        assert f"dataset.path: {tmp_path}/{path}" in error_of(path)


def test_values_equal_those_of_datasets(hub, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    columns = {"image": [Image.fromarray(noise)] * 2, "label": [0, 0]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])}
    )
    table = datasets.Dataset.from_dict(columns, features)
    table.save_to_disk(tmp_path / "disk")
    np.testing.assert_array_equal(hub("disk").image(0), np.asarray(table[0]["image"]))
