"""What generated images are compared with: on disk, and from files that others publish."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from edm2.metrics import frechet_distance
from edm2.metrics.collection import Collection
from edm2.metrics.reference import (
    KEPT,
    Reference,
    import_reference,
    load_reference,
    reference_of,
    save_reference,
)
from edm2.metrics.statistics import Statistics, distance
from edm2.params import UserError

DIMS = 5


class Detector:
    name, dims, fingerprint = "corners", DIMS, "abc"

    def features(self, images): ...


def features(count, seed=0):
    return np.random.default_rng(seed).normal(1, 2, (count, DIMS)).astype(np.float32)


def made(data, kept):
    collection = Collection(DIMS, [len(data)], kept)
    collection.add(range(len(data)), data)
    return reference_of(collection)


def save(folder, reference, **changes):
    facts = {"detector": "corners", "weights": "abc", "images": "of digits"}
    save_reference(folder, reference, **{**facts, **changes})


@pytest.mark.parametrize("kept", [20, 90])
def test_what_is_saved_is_read_again(tmp_path, kept):
    data = features(50)
    save(tmp_path, made(data, kept))
    found = load_reference(tmp_path, Detector(), "of digits")
    np.testing.assert_allclose(found.mean, data.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(data.T), rtol=1e-5)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    assert found.count == 50
    assert not found.singular
    assert found.features.dtype == np.float32
    assert np.array_equal(found.features, data[:kept])
    assert made(features(5), 0).singular


def test_files_are_the_same_each_time(tmp_path):
    for name in "ab":
        save(tmp_path / name, made(features(50), 20))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detector": "edges"}, "expected detector corners, and it was made with edges"),
        ({"weights": "xyz"}, "expected weights abc, and it was made with xyz"),
        ({"images": "of cats"}, "expected images of digits, and it was made with of cats"),
    ],
)
def test_what_belongs_to_others_is_refused_with_the_way_out(tmp_path, changes, said):
    save(tmp_path, made(features(50), 20), **changes)
    with pytest.raises(UserError, match=rf"{said}\. Say `dvc repro -f -s reference`"):
        load_reference(tmp_path, Detector(), "of digits")


@pytest.mark.parametrize("name", ["statistics.npz", "features.npy"])
def test_a_truncated_file_is_named(tmp_path, name):
    save(tmp_path, made(features(50), 20))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-30])
    with pytest.raises(UserError, match=rf"{name}: \d+ bytes, expected {len(content)}"):
        load_reference(tmp_path, Detector(), "of digits")


def moments():
    data = features(50, 1)
    return {"mu": data.mean(0), "sigma": np.cov(data.T)}


def published(tmp_path, **changes):
    np.savez(tmp_path / "theirs.npz", **{**moments(), **changes})
    return tmp_path / "theirs.npz"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_published_moments_are_taken_as_they_are(tmp_path, dtype):
    theirs = {name: array.astype(dtype) for name, array in moments().items()}
    found = import_reference(published(tmp_path, **theirs, more=np.zeros(3)), DIMS)
    assert np.array_equal(found.mean, theirs["mu"].astype(np.float64))
    np.testing.assert_allclose(found.covariance, theirs["sigma"], rtol=1e-6)
    assert found.count is None
    assert not found.singular
    save(tmp_path / "reference", found, weights=None, images=None)
    again = load_reference(tmp_path / "reference", Detector(), "of digits")
    assert again.count is None
    assert np.array_equal(again.covariance, found.covariance)
    assert len(again.features) == 0
    ours = Statistics.empty(DIMS)
    ours.update(features(30))
    expected = frechet_distance(ours.mean, ours.covariance, again.mean, again.covariance)
    assert distance(ours, again) == expected > 0


def turned(*values):
    """A symmetric matrix of these eigenvalues."""
    basis = np.linalg.qr(features(DIMS, 2).astype(np.float64))[0]
    return basis * np.array(values) @ basis.T


def test_rounding_of_float32_is_no_defect_of_a_covariance(tmp_path):
    """Of rank 2, its other eigenvalues a little below 0, its halves a little apart."""
    sigma = turned(3, 1, -2e-7, -1e-7, 0) * (1 + 2e-7 * np.tri(DIMS))
    found = import_reference(published(tmp_path, sigma=sigma), DIMS).covariance
    assert np.array_equal(found, found.T)
    np.testing.assert_allclose(found, sigma, rtol=2e-7)


@pytest.mark.parametrize(
    ("sigma", "said"),
    [
        (turned(3, 1, 1, 1, -3e-3), "negative variances"),
        (turned(3, 1, 1, 1, 1) + 3e-3 * np.eye(DIMS, k=1), "symmetric"),
    ],
)
def test_what_is_more_than_rounding_is_refused(tmp_path, sigma, said):
    with pytest.raises(UserError, match=said):
        import_reference(published(tmp_path, sigma=sigma), DIMS)


def test_what_was_computed_here_can_be_published(tmp_path):
    ours = made(features(50), 0)
    save(tmp_path, ours)
    found = import_reference(tmp_path / "statistics.npz", DIMS)
    assert np.array_equal(found.mean, ours.mean)
    np.testing.assert_allclose(found.covariance, ours.covariance, rtol=1e-12)


NOT_FINITE = np.full((DIMS, DIMS), np.nan)
LOPSIDED = moments()["sigma"] + np.eye(DIMS, k=1)
NEGATIVE = moments()["sigma"] - 100 * np.eye(DIMS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mu": np.zeros(6)}, r"expected mu \[5\] and sigma \[5, 5\], found \[6\] and \[5, 5\]"),
        ({"sigma": np.eye(4)}, r"found \[5\] and \[4, 4\]: of another detector"),
        ({"sigma": NOT_FINITE}, "expected finite numbers, found infs or NaNs"),
        ({"mu": np.full(DIMS, np.inf)}, "expected finite numbers"),
        ({"sigma": LOPSIDED}, "expected a symmetric sigma"),
        ({"sigma": NEGATIVE}, "found a matrix with negative variances"),
        ({"mu": np.array(["x"] * DIMS)}, "expected an .npz file with arrays mu and sigma"),
        ({"mu": np.array([{}] * DIMS)}, "expected an .npz file with arrays mu and sigma"),
    ],
)
def test_what_are_no_moments_of_the_detector_is_refused(tmp_path, changes, said):
    path = published(tmp_path, **changes)
    with pytest.raises(UserError, match=said) as error:
        import_reference(path, DIMS)
    assert str(error.value).startswith(f"{path}: ")
    assert "Set evaluation.reference to" in str(error.value)


def content_of(kind):
    stream = io.BytesIO()
    if kind == "array":
        np.save(stream, np.zeros(DIMS))
    elif kind == "others":
        np.savez(stream, mean=np.zeros(DIMS))
    elif kind == "zip":
        zipfile.ZipFile(stream, "w").close()
    elif kind == "pickle":
        pickle.dump(moments(), stream)
    elif kind in ("encrypted", "compressed otherwise"):
        np.savez(stream, **moments())
        content = bytearray(stream.getvalue())
        flag = content.index(b"PK\x01\x02") + (8 if kind == "encrypted" else 10)
        content[flag] = 1 if kind == "encrypted" else 99
        return bytes(content)
    elif kind == "harmed":
        np.savez_compressed(stream, **moments())
        content = bytearray(stream.getvalue())
        content[60:90] = b"\xff" * 30
        return bytes(content)
    elif kind == "half":
        np.savez(stream, **moments())
        return stream.getvalue()[:200]
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        "array",
        "others",
        "zip",
        "pickle",
        "half",
        "empty",
        "encrypted",
        "compressed otherwise",
        "harmed",
    ],
)
def test_other_files_are_refused(tmp_path, kind):
    path = tmp_path / "theirs.npz"
    path.write_bytes(content_of(kind))
    with pytest.raises(UserError, match="expected an .npz file with arrays mu and sigma"):
        import_reference(path, DIMS)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected an .npz file with arrays mu and sigma"):
        import_reference(tmp_path / "nothing.npz", DIMS)


def test_a_reference_without_a_count_is_never_called_singular():
    unknown = Reference(np.zeros(DIMS), np.eye(DIMS), None, np.empty((0, 0), np.float32))
    assert not unknown.singular
    few = Statistics.empty(DIMS)
    few.update(features(3))
    with pytest.raises(UserError, match="Fréchet distance of 3 images"):
        distance(few, unknown)
    assert np.isfinite(distance(few, unknown, allow_singular=True))


def test_as_many_features_are_kept_as_the_papers_protocol_generates():
    """Measures of pairs compare with as many real images as are generated: 50 000 in the paper."""
    assert KEPT >= 50_000
