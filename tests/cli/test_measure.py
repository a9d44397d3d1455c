"""`edm2 measure`: values by hand, from any kind of images, on any number of ranks."""

import json
import pickle
import tarfile
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from color_images import DIMS, Colors, pixels, write_folder
from fork_ranks import fork_ranks
from PIL import Image

from edm2.cli.measure import measure as command
from edm2.data.cropping import crop_to_square
from edm2.params.seams import DETECTORS, DetectorKind
from edm2.pipeline import measurement

ALL = "fd,kid,precision,recall"
pytestmark = pytest.mark.usefixtures("measuring")


def features(images, exponent=1):
    return (images.astype(np.float64).mean((1, 2)) / 64) ** exponent


def distance(a, b):
    """By the matrix square root of the product of the covariances, as EDM and EDM2 compute it."""
    covariances = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)


def kernel_mean(a, b, self_excluded):
    kernel = (a @ b.T / DIMS + 1) ** 3
    return (
        (kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1))
        if self_excluded
        else kernel.mean()
    )


def kernel_distance(a, b):
    within = kernel_mean(a, a, True) + kernel_mean(b, b, True)
    return within - 2 * kernel_mean(a, b, False)


def share_inside(points, support):
    """Of the points, those within the third neighbor's distance of a point of `support`."""
    radii = np.sort(np.linalg.norm(support[:, None] - support, axis=2), axis=1)[:, 3]
    return (np.linalg.norm(points[:, None] - support, axis=2) <= radii).any(1).mean()


def values(run, *arguments):
    """The rows of a measurement by the names of their metrics."""
    out = Path(f"values-{len(list(Path().glob('values-*')))}.json")
    result = run("measure", *arguments, "--out", out)
    assert result.status == 0, result.err
    return {row["metric"]: row for row in json.loads(out.read_text())["rows"]}


def test_values_are_those_of_the_definitions(run, fake, real):
    rows = values(run, fake, "--reference", real, "--detector", "colors,squares", "--metrics", ALL)
    assert len(rows) == 8
    for exponent, name in ((1, "colors"), (2, "squares")):
        a, b = features(pixels(30, 0), exponent), features(pixels(40, 1), exponent)
        assert rows[f"fd_{name}_30"]["value"] == pytest.approx(distance(a, b), rel=1e-6)
        # the others compare with as many real images
        counts = {metric: rows[f"{metric}_{name}_30"]["reference"] for metric in ALL.split(",")}
        assert counts == {"fd": 40, "kid": 30, "precision": 30, "recall": 30}


def test_metrics_of_pairs_of_sets_of_one_size(run, fake, tmp_path):
    other = write_folder(tmp_path / "other", pixels(30, 2))
    rows = values(run, fake, "--reference", other, "--detector", "colors", "--metrics", ALL)
    a, b = features(pixels(30, 0)), features(pixels(30, 2))
    kid = rows["kid_colors_30"]
    assert kid["value"] == pytest.approx(kernel_distance(a, b), rel=1e-5)
    assert kid["standard_error"] > 0
    assert rows["precision_colors_30"]["value"] == share_inside(a, b)
    assert rows["recall_colors_30"]["value"] == share_inside(b, a)


def test_the_table_has_names_values_and_counts(run, fake, real):
    result = run(
        "measure", fake, "--reference", real, "--detector", "colors", "--metrics", "fd,kid"
    )
    head, fd, kid = (line.split() for line in result.out.splitlines())
    assert head[:2] == ["metric", "value"]
    assert (fd[0], fd[-2:]) == ("fd_colors_30", ["30", "40"])
    expected = distance(features(pixels(30, 0)), features(pixels(40, 1)))
    assert float(fd[1]) == pytest.approx(expected, rel=1e-5)
    assert (kid[0], kid[-2:]) == ("kid_colors_30", ["30", "30"])
    assert "30 images, 6×6 pixels" in result.err


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_give_the_values_of_their_folder(run, fake, real, kind):
    files = sorted(fake.rglob("*.png"))
    if kind == "zip":
        with zipfile.ZipFile("images.zip", "w") as archive:
            for path in reversed(files):
                archive.write(path, path.relative_to(fake))
            archive.writestr("dataset.json", '{"labels": null}')
    else:
        for shard in (0, 1):
            with tarfile.open(f"images-{shard}.tar", "w") as archive:
                for path in files[15 * shard : 15 * shard + 15]:
                    archive.add(path, path.relative_to(fake))
    place = "images.zip" if kind == "zip" else "images-{0,1}.tar"
    options = ("--reference", real, "--detector", "colors", "--metrics", ALL)
    assert values(run, place, *options) == values(run, fake, *options)


def test_ranks_change_no_bit_and_batches_little(run, fake, real, tmp_path, monkeypatch):
    options = (str(fake), "--reference", str(real), "--detector", "colors", "--metrics", ALL)
    alone = values(run, *options, "--batch", 4)

    def on_rank():
        command.main(
            [*options, "--batch", "4", "--out", str(tmp_path / "ranks.csv")],
            standalone_mode=False,
            obj=Project(),
        )

    monkeypatch.setattr(measurement, "process_group", lambda *_: nullcontext())  # there is one
    fork_ranks(3, tmp_path, on_rank)
    lines = (tmp_path / "ranks.csv").read_text().splitlines()
    column = lines[0].split(",").index("value")
    together = {line.split(",")[0]: float(line.split(",")[column]) for line in lines[1:]}
    assert together == {name: row["value"] for name, row in alone.items()}
    one = values(run, *options, "--batch", 30)
    for name, row in alone.items():
        assert one[name]["value"] == pytest.approx(row["value"], rel=1e-9)


class Project:
    root = None


def test_a_file_of_the_reference_stands_for_its_images(run, fake, real):
    options = ("--detector", "squares,colors")
    result = run("measure", "reference", real, *options, "--out", "real.npz")
    assert result.status == 0, result.err
    metrics = ("--metrics", ALL)
    from_file = values(run, fake, "--reference", "real.npz", *options, *metrics)
    assert from_file == values(run, fake, "--reference", real, *options, *metrics)
    with np.load("real.npz") as arrays:  # as EDM's tools read it
        expected = features(pixels(40, 1), 2)
        assert np.allclose(arrays["mu"], expected.mean(0))
        assert np.allclose(arrays["sigma"], np.cov(expected.T))


@pytest.mark.parametrize("kind", ["npz", "pkl"])
def test_published_statistics_have_moments_alone(run, fake, kind):
    theirs = features(pixels(40, 1))
    moments = {"mu": theirs.mean(0), "sigma": np.cov(theirs.T)}
    if kind == "npz":
        np.savez("theirs.npz", **moments)
    else:
        Path("theirs.pkl").write_bytes(pickle.dumps({"colors": {**moments, "num_images": 40}}))
    options = ("--reference", f"theirs.{kind}", "--detector", "colors")
    (row,) = values(run, fake, *options).values()
    assert row["value"] == pytest.approx(distance(features(pixels(30, 0)), theirs), rel=1e-6)
    assert row["reference"] == (None if kind == "npz" else 40)
    result = run("measure", fake, *options, "--metrics", "fd,kid")
    assert result.status == 2
    for word in ("--metrics kid", f"theirs.{kind}", "edm2 measure reference"):
        assert word in result.err


def test_only_the_first_images_by_name(run, fake, real):
    rows = values(run, fake, "--reference", real, "--detector", "colors", "--samples", 12)
    expected = distance(features(pixels(30, 0)[:12]), features(pixels(40, 1)))
    assert rows["fd_colors_12"]["value"] == pytest.approx(expected, rel=1e-6)


def test_images_of_any_size_are_resized_if_asked(run, real, tmp_path):
    images = [pixels(1, k, (6 + k % 3, 9))[0] for k in range(12)]
    folder = write_folder(tmp_path / "odd", images)
    result = run("measure", folder, "--reference", real, "--detector", "colors")
    assert result.status == 2
    for words in (str(folder), "4 of 9×6 pixels", "4 of 9×7 pixels", "4 of 9×8", "--resize"):
        assert words in result.err
    rows = values(run, folder, "--reference", real, "--detector", "colors", "--resize", 6)
    squares = np.stack([crop_to_square(Image.fromarray(image), 6, "lanczos") for image in images])
    expected = distance(features(squares), features(pixels(40, 1)))
    assert rows["fd_colors_12"]["value"] == pytest.approx(expected, rel=1e-6)


def test_a_project_has_a_classifier_and_a_reference(run, project):
    """Its own training images have the distance 0 from its reference."""
    folder = project()
    options = ("--detector", "classifier", "--reference", folder / "data/reference")
    rows = values(run, f"{folder}/data/images/train-*.tar", *options, "--metrics", "fd,kid")
    fd, kid = rows.values()
    assert kid["value"] < 0  # unbiased, and without the pairs of an image with itself
    assert fd["images"] == fd["reference"] > 1000
    assert fd["value"] == pytest.approx(0, abs=1e-6)
    small = run("measure", write_folder(folder / "small", pixels(20, 0)), *options)
    assert small.status == 2
    assert "--resize 16" in small.err
    wrong = run("measure", folder / "data/images/train-*.tar", *options, "--detector", "colors")
    assert wrong.status == 2
    assert "--detector classifier" in wrong.err


def test_a_folder_may_have_the_name_of_the_subcommand(run, real, tmp_path):
    write_folder(tmp_path / "reference", pixels(30, 0))
    rows = values(run, "./reference", "--reference", real, "--detector", "colors")
    assert set(rows) == {"fd_colors_30"}


def test_the_inception_score_needs_no_reference(run, fake, monkeypatch):
    class Classes(Colors):
        def probabilities(self, features):
            return torch.full((len(features), 4), 0.25)

    DETECTORS.remove("squares")
    kind = DetectorKind(lambda *_: Classes("squares", 2), DIMS, predicts_classes=True)
    DETECTORS.register("squares", kind)
    rows = values(run, fake, "--detector", "squares,colors", "--metrics", "is")
    assert rows["is_squares_30"]["value"] == pytest.approx(1)
    assert rows["is_squares_30"]["reference"] is None
    assert len(rows) == 1
