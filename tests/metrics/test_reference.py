"""The reference of metrics: on disk, and imported from published files."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from edm2.metrics import frechet_distance
from edm2.metrics.collection import Collection
from edm2.metrics.reference import (
    MAX_KEPT_FEATURES,
    Reference,
    build_reference,
    import_reference,
    load_reference,
    save_reference,
)
from edm2.metrics.statistics import Statistics, distance
from edm2.params import UserError
from edm2.params.errors import NotFiniteError

DIMS = 5


class Detector:
    name, dims, fingerprint = "corners", DIMS, "abc"

    def features(self, images): ...


def features(count, seed=0):
    return np.random.default_rng(seed).normal(1, 2, (count, DIMS)).astype(np.float32)


def reference(data, kept):
    collection = Collection(DIMS, [len(data)], kept)
    collection.add(range(len(data)), data)
    return build_reference(collection)


def save(folder, reference, **changes):
    metadata = {"detector": "corners", "weights": "abc", "images": "of digits"}
    save_reference(folder, reference, **{**metadata, **changes})


@pytest.mark.parametrize("kept", [20, 90])
def test_a_saved_reference_is_loaded_unchanged(tmp_path, kept):
    data = features(50)
    save(tmp_path, reference(data, kept))
    loaded = load_reference(tmp_path, Detector(), "of digits")
    np.testing.assert_allclose(loaded.mean, data.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(loaded.covariance, np.cov(data.T), rtol=1e-5)
    assert loaded.mean.dtype == loaded.covariance.dtype == np.float64
    assert loaded.count == 50
    assert not loaded.singular
    assert loaded.features.dtype == np.float32
    assert np.array_equal(loaded.features, data[:kept])
    assert reference(features(5), 0).singular


def test_files_are_reproducible(tmp_path):
    for name in "ab":
        save(tmp_path / name, reference(features(50), 20))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"detector": "edges"}, "detector corners.*edges"),
        ({"weights": "xyz"}, "weights abc.*xyz"),
        ({"images": "of cats"}, "images of digits.*of cats"),
    ],
)
def test_a_reference_of_other_inputs_is_refused_with_the_command_to_run(tmp_path, changes, named):
    save(tmp_path, reference(features(50), 20), **changes)
    with pytest.raises(UserError, match=rf"{named}.*`dvc repro -f -s reference`"):
        load_reference(tmp_path, Detector(), "of digits")


@pytest.mark.parametrize("name", ["statistics.npz", "features.npy"])
def test_a_truncated_file_is_named(tmp_path, name):
    save(tmp_path, reference(features(50), 20))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-30])
    with pytest.raises(UserError, match=rf"{name}: .*{len(content)}"):
        load_reference(tmp_path, Detector(), "of digits")


@pytest.mark.parametrize("name", ["statistics.npz", "features.npy", "manifest.json"])
def test_a_changed_file_is_named(tmp_path, name):
    save(tmp_path, reference(features(50), 20))
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*dvc repro"):
        load_reference(tmp_path, Detector(), "of digits")


def moments():
    data = features(50, 1)
    return {"mu": data.mean(0), "sigma": np.cov(data.T)}


def published(tmp_path, **changes):
    np.savez(tmp_path / "published.npz", **{**moments(), **changes})
    return tmp_path / "published.npz"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_published_moments_are_imported_unchanged(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in moments().items()}
    imported = import_reference(published(tmp_path, **arrays, more=np.zeros(3)), DIMS, "inception")
    assert np.array_equal(imported.mean, arrays["mu"].astype(np.float64))
    np.testing.assert_allclose(imported.covariance, arrays["sigma"], rtol=1e-6)
    assert imported.count is None
    assert not imported.singular
    save(tmp_path / "reference", imported, weights=None, images=None)
    loaded = load_reference(tmp_path / "reference", Detector(), "of digits")
    assert loaded.count is None
    assert np.array_equal(loaded.covariance, imported.covariance)
    assert len(loaded.features) == 0
    generated = Statistics.empty(DIMS)
    generated.update(features(30))
    expected = frechet_distance(
        generated.mean, generated.covariance, loaded.mean, loaded.covariance
    )
    assert distance(generated, loaded) == expected > 0


def with_eigenvalues(*values):
    """A symmetric matrix with these eigenvalues."""
    basis = np.linalg.qr(features(DIMS, 2).astype(np.float64))[0]
    return basis * np.array(values) @ basis.T


def test_rounding_errors_of_float32_covariances_are_accepted(tmp_path):
    """Rank 2, with slightly negative other eigenvalues and slight asymmetry."""
    sigma = with_eigenvalues(3, 1, -2e-7, -1e-7, 0) * (1 + 2e-7 * np.tri(DIMS))
    covariance = import_reference(published(tmp_path, sigma=sigma), DIMS, "inception").covariance
    assert np.array_equal(covariance, covariance.T)
    np.testing.assert_allclose(covariance, sigma, rtol=2e-7)


@pytest.mark.parametrize(
    ("sigma", "reason"),
    [
        (with_eigenvalues(3, 1, 1, 1, -3e-3), "negative"),
        (with_eigenvalues(3, 1, 1, 1, 1) + 3e-3 * np.eye(DIMS, k=1), "symmetric"),
    ],
)
def test_errors_larger_than_rounding_are_refused(tmp_path, sigma, reason):
    with pytest.raises(UserError, match=reason):
        import_reference(published(tmp_path, sigma=sigma), DIMS, "inception")


def test_saved_moments_can_be_imported(tmp_path):
    computed = reference(features(50), 0)
    save(tmp_path, computed)
    imported = import_reference(tmp_path / "statistics.npz", DIMS, "inception")
    assert np.array_equal(imported.mean, computed.mean)
    np.testing.assert_allclose(imported.covariance, computed.covariance, rtol=1e-12)


NOT_FINITE = np.full((DIMS, DIMS), np.nan)
ASYMMETRIC = moments()["sigma"] + np.eye(DIMS, k=1)
NEGATIVE = moments()["sigma"] - 100 * np.eye(DIMS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mu": np.zeros(6)}, r"\[5\].*\[5, 5\].*\[6\].*\[5, 5\]"),
        ({"sigma": np.eye(4)}, r"\[5\].*\[4, 4\]"),
        ({"sigma": NOT_FINITE}, "finite"),
        ({"mu": np.full(DIMS, np.inf)}, "finite"),
        ({"sigma": ASYMMETRIC}, "symmetric"),
        ({"sigma": NEGATIVE}, "negative"),
        ({"mu": np.array(["x"] * DIMS)}, ".npz"),
        ({"mu": np.array([{}] * DIMS)}, ".npz"),
    ],
)
def test_arrays_that_are_not_moments_of_the_detector_are_refused(tmp_path, changes, reason):
    path = published(tmp_path, **changes)
    with pytest.raises(UserError, match=rf"{path}: .*{reason}.*evaluation\.reference"):
        import_reference(path, DIMS, "inception")


def file_content(kind):
    stream = io.BytesIO()
    if kind == "array":
        np.save(stream, np.zeros(DIMS))
    elif kind == "other arrays":
        np.savez(stream, mean=np.zeros(DIMS))
    elif kind == "zip":
        zipfile.ZipFile(stream, "w").close()
    elif kind == "pickle":
        pickle.dump(moments(), stream)
    elif kind in ("encrypted", "unknown compression"):
        np.savez(stream, **moments())
        content = bytearray(stream.getvalue())
        flag = content.index(b"PK\x01\x02") + (8 if kind == "encrypted" else 10)
        content[flag] = 1 if kind == "encrypted" else 99
        return bytes(content)
    elif kind == "corrupted":
        np.savez_compressed(stream, **moments())
        content = bytearray(stream.getvalue())
        content[60:90] = b"\xff" * 30
        return bytes(content)
    elif kind == "truncated":
        np.savez(stream, **moments())
        return stream.getvalue()[:200]
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        "array",
        "other arrays",
        "zip",
        "pickle",
        "truncated",
        "empty",
        "encrypted",
        "unknown compression",
        "corrupted",
    ],
)
def test_invalid_files_are_named(tmp_path, kind):
    path = tmp_path / "published.npz"
    path.write_bytes(file_content(kind))
    with pytest.raises(UserError, match=f"{path}: .*mu and sigma"):
        import_reference(path, DIMS, "inception")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.npz: "):
        import_reference(tmp_path / "nothing.npz", DIMS, "inception")


def test_a_reference_without_a_count_is_never_singular():
    unknown = Reference(np.zeros(DIMS), np.eye(DIMS), None, np.empty((0, 0), np.float32))
    assert not unknown.singular
    few = Statistics.empty(DIMS)
    few.update(features(3))
    with pytest.raises(UserError, match="3 images"):
        distance(few, unknown)
    assert np.isfinite(distance(few, unknown, allow_singular=True))


def test_features_of_as_many_images_are_kept_as_the_paper_generates():
    """Metrics of pairs compare with as many real images as are generated: 50,000 in the paper."""
    assert MAX_KEPT_FEATURES >= 50_000


@pytest.mark.parametrize("name", ["mean", "covariance", "features"])
def test_references_that_are_not_finite_are_refused(tmp_path, name):
    damaged = reference(features(50), 20)
    getattr(damaged, name)[1] = np.nan
    save(tmp_path, damaged)
    with pytest.raises(NotFiniteError, match=r"statistics.npz: (mu|sigma)|features.npy: "):
        load_reference(tmp_path, Detector(), "of digits")
