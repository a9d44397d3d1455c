"""Where params say that images are: paths, patterns of tars, and what each source takes."""

from pathlib import Path

import pytest

from edm2.params import ParamsError


def test_a_folder_of_images_must_exist(params, only_problem, tmp_path):
    changes = {"dataset.source": "folder", "dataset.path": "pictures"}
    problem = only_problem(changes)
    assert (problem.key, problem.value) == ("dataset.path", "pictures")
    assert f"{tmp_path}/pictures" in problem.fix
    (tmp_path / "pictures").mkdir()
    assert params(changes).dataset.path == "pictures"


def test_photographs_are_too_small_for_large_crops(params, only_problem):
    changes = {"dataset.source": "photos", "diffusion.attention_resolutions": None}
    problem = only_problem({**changes, "dataset.resolution": 160})
    assert (problem.key, problem.value) == ("dataset.resolution", 160)
    changes["dataset.resolution"] = 128
    params(changes)
    assert only_problem({**changes, "dataset.path": "pictures"}).key == "dataset.path"


@pytest.fixture
def shards(tmp_path, problems, params):
    """Three files in a project; shards(training, held out) gives the problems of these patterns."""
    for name in ("0", "1", "2"):
        (tmp_path / f"{name}.tar").touch()
    (tmp_path / "also.tar").symlink_to("1.tar")

    def get(training, held_out):
        changes = {"vae.images.shards": training, "vae.images.held_out": held_out}
        try:
            params(changes)
        except ParamsError as error:
            return error.problems
        return ()

    return get


def test_training_and_held_out_shards_must_be_disjoint(shards, tmp_path):
    assert shards("{0..1}.tar", "2.tar") == ()
    assert shards("[01].tar", f"{tmp_path}/2.tar") == ()
    for held_out in ("{1..2}.tar", "*[12].tar", "also.tar"):
        (problem,) = shards("{0..1}.tar", held_out)
        assert (problem.key, problem.value) == ("vae.images.held_out", held_out)
        assert f"{tmp_path}/1.tar" in problem.fix


def test_missing_shards_are_named(shards, tmp_path):
    (problem,) = shards("{0..3}.tar", "also.tar")[:1]
    assert "1 of 4" in problem.fix
    assert f"{tmp_path}/3.tar" in problem.fix
    assert shards("0.tar", "held*.tar")[0].key == "vae.images.held_out"
    assert shards(None, "0.tar")[0].key == "vae.images.shards, vae.images.held_out"


@pytest.mark.parametrize(
    ("path", "way_out"),
    [
        ("params.yaml", "params.yaml, which is a file."),
        ("~/no such folder", f": write {Path('~/no such folder').expanduser()}."),
        ("s3://bucket/images", ": download them first, only files are read."),
        ("nowhere", "nowhere."),
    ],
)
def test_what_is_wrong_with_a_folder_of_images_is_told(
    only_problem, path: str, way_out: str
) -> None:
    problem = only_problem({"dataset.source": "folder", "dataset.path": path})
    assert problem.allowed == "a folder that exists"
    assert problem.fix.endswith(way_out)


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("data/images", "images"),
        ("data/latents/mine", "latents"),
        ("data", "images"),
        (".", "images"),
    ],
)
def test_images_are_not_among_results_which_are_removed(
    only_problem, tmp_path, path: str, result: str
) -> None:
    (tmp_path / path).mkdir(parents=True, exist_ok=True)
    problem = only_problem({"dataset.source": "folder", "dataset.path": path})
    assert (problem.key, problem.value) == ("dataset.path", path)
    assert problem.fix.startswith(f"{tmp_path}/data/{result} ")


@pytest.fixture
def files(tmp_path):
    """Files and folders of every source in a project."""
    for name in ("train/inner", "val"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("0.tar", "1.tar", "x.zip", "names.txt", "train/a.parquet", "train/b.parquet"):
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("source", "path", "held_out_path"),
    [
        ("folder", "train", "val"),
        ("webdataset", "0.tar", "[1-9].tar"),
        ("zip", "x.zip", None),
        ("huggingface", "train", "val"),
        ("huggingface", "0.t*", "1.t*"),
    ],
)
def test_sources_of_files_take_a_path_of_held_out_images(
    params, files, source, path, held_out_path, monkeypatch
):
    monkeypatch.setattr("edm2.params.dataset_checks.find_spec", lambda name: name)
    changes = {"dataset.source": source, "dataset.path": path, "dataset.classes": "names.txt"}
    held_out = None if held_out_path else 0.1
    changes |= {"dataset.held_out_path": held_out_path, "dataset.held_out": held_out}
    assert params(changes).dataset.held_out_path == held_out_path


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"source": "folder", "path": "0.tar"}, "path", "0.tar"),
        ({"source": "webdataset", "path": "{0..3}.tar"}, "path", "{0..3}.tar"),
        ({"source": "webdataset", "path": "train"}, "path", "train"),
        ({"source": "zip", "path": "train"}, "path", "train"),
        ({"source": "zip"}, "path", None),
        ({"held_out": None}, "held_out", None),
        ({"classes": "names.txt"}, "classes", "names.txt"),
        ({"label_field": "y"}, "label_field", "y"),
        ({"source": "zip", "path": "x.zip", "label_field": "y"}, "label_field", "y"),
        ({"source": "webdataset", "path": "0.tar", "image_field": "x"}, "image_field", "x"),
        ({"source": "zip", "path": "x.zip", "classes": "no.txt"}, "classes", "no.txt"),
        ({"source": "folder", "path": "train", "held_out_path": "val"}, "held_out", 0.15),
    ],
)
def test_what_a_source_cannot_take_is_named(only_problem, files, changes, key, value):
    problem = only_problem({f"dataset.{name}": change for name, change in changes.items()})
    assert (problem.key, problem.value) == (f"dataset.{key}", value)


@pytest.mark.parametrize(
    ("source", "path", "held_out_path"),
    [
        ("folder", "train", "train/inner"),
        ("folder", "train/inner", "train"),
        ("folder", "train", "no"),
        ("zip", "x.zip", "x.zip"),
        ("webdataset", "*.tar", "1.tar"),
        ("huggingface", "train", "train/[b].parquet"),
        ("huggingface", "train/*.parquet", "train"),
        ("huggingface", "train/*.parquet", "train/b*.parquet"),
    ],
)
def test_held_out_images_exist_and_are_not_trained_on(
    only_problem, files, source, path, held_out_path, monkeypatch
):
    monkeypatch.setattr("edm2.params.dataset_checks.find_spec", lambda name: name)
    changes = {"dataset.source": source, "dataset.path": path, "dataset.held_out": None}
    problem = only_problem(changes | {"dataset.held_out_path": held_out_path})
    assert (problem.key, problem.value) == ("dataset.held_out_path", held_out_path)


def test_a_source_whose_package_is_missing_names_the_extra(only_problem, files, monkeypatch):
    monkeypatch.setattr("edm2.params.dataset_checks.find_spec", lambda name: None)
    problem = only_problem({"dataset.source": "huggingface", "dataset.path": "train"})
    assert (problem.key, problem.value) == ("dataset.source", "huggingface")
    assert "edm2[hf]" in problem.fix
