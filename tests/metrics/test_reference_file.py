"""The file of `edm2 measure reference`: what it holds, and that no damage of it goes unnoticed."""

import json
from contextlib import suppress

import numpy as np
import pytest

from edm2.metrics.reference import Reference, import_reference
from edm2.metrics.reference_file import open_reference_file, write_reference_file
from edm2.params import UserError

COUNT, KEPT = 30, 20


class Detector:
    def __init__(self, name, dims, fingerprint):
        self.name, self.dims, self.fingerprint = name, dims, fingerprint


FIRST, SECOND = Detector("inception", 3, "aa" * 32), Detector("dinov2", 4, "bb" * 32)


def reference(dims):
    features = np.random.default_rng(dims).normal(size=(COUNT, dims)).astype(np.float32)
    mean, covariance = features.mean(0, dtype=np.float64), np.cov(features.astype(np.float64).T)
    return Reference(mean, covariance, COUNT, features[:KEPT])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "real.npz"
    references = {d.name: reference(d.dims) for d in (FIRST, SECOND)}
    write_reference_file(path, references, {d.name: d.fingerprint for d in (FIRST, SECOND)}, 64)
    return path


@pytest.mark.parametrize("detector", [FIRST, SECOND])
def test_every_detector_has_what_was_written(path, detector):
    file = open_reference_file(path)
    assert (file.count, file.resolution) == (COUNT, 64)
    read, written = file.read(detector, with_features=True), reference(detector.dims)
    for name in ("mean", "covariance", "features"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    assert read.count == COUNT
    assert not len(file.read(detector, with_features=False).features)


def test_other_programs_read_the_moments_of_the_first_detector(path, tmp_path):
    theirs = import_reference(path, FIRST.dims, FIRST.name)
    assert np.array_equal(theirs.mean, reference(FIRST.dims).mean)
    np.savez(tmp_path / "edm.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert open_reference_file(tmp_path / "edm.npz") is None


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (Detector("classifier", 3, "aa" * 32), ("classifier", "inception, dinov2")),
        (Detector("inception", 3, "cc" * 32), ("inception", "aaaaaaaaaaaa", "cccccccccccc")),
    ],
)
def test_other_detectors_and_weights_are_refused(path, detector, words):
    with pytest.raises(UserError) as error:
        open_reference_file(path).read(detector, with_features=False)
    for word in (str(path), *words):
        assert word in str(error.value)


def require_unchanged(path):
    """What can be read is what was written; without its description it is another program's file."""
    file = open_reference_file(path)
    for detector in (FIRST, SECOND) if file else ():
        read, written = file.read(detector, with_features=True), reference(detector.dims)
        assert np.array_equal(read.features, written.features)
        assert np.array_equal(read.covariance, written.covariance)


def test_a_text_is_refused_without_advice_to_load_it_unsafely(tmp_path):
    file = tmp_path / "text.npz"
    file.write_text("no archive")
    with pytest.raises(
        UserError, match=r"text\.npz: expected statistics in an \.npz file"
    ) as error:
        open_reference_file(file)
    assert "allow_pickle" not in str(error.value)


def test_no_damage_goes_unnoticed(path):
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with suppress(UserError):
            require_unchanged(path)
    for length in range(0, len(whole), 311):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=path.name):
            open_reference_file(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, ("version 2", "expected 1")),
        ({"count": None, "more": 1}, ("more",)),
    ],
)
def test_other_versions_and_descriptions_are_refused(path, changes, words):
    with np.load(path) as arrays:
        content = dict(arrays)
    description = {**json.loads(str(content["edm2"])), **changes}
    np.savez(path, **{**content, "edm2": np.array(json.dumps(description))})
    with pytest.raises(UserError) as error:
        open_reference_file(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_values_that_are_not_finite_are_refused(path):
    with np.load(path) as arrays:
        content = dict(arrays)
    content["features"][3, 1] = np.nan
    np.savez(path, **content)
    with pytest.raises(UserError, match="features"):
        open_reference_file(path).read(FIRST, with_features=True)
