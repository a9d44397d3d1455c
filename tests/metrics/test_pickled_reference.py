"""Statistics in EDM2's pickles, of which nothing is run."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from metrics.test_reference import DIMS, moments
from published_pickles import EasyDict, pickled

from edm2.metrics.reference import import_reference
from edm2.params import UserError


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("number", [int, np.int64])
def test_pickled_statistics_of_each_detector(tmp_path, protocol, number):
    """As EDM2 writes them: a dict for each metric, here in its own class of dicts."""
    both = {"fid": moments(), "fd_dinov2": {name: 2 * x for name, x in moments().items()}}
    both["fid"]["sigma"] = np.asfortranarray(both["fid"]["sigma"].astype(np.float32))
    both["fd_dinov2"]["num_images"] = number(1281167)
    path = tmp_path / "img512.pkl"
    path.write_bytes(pickled({key: EasyDict(pair) for key, pair in both.items()}, protocol))
    for detector, key in (("inception", "fid"), ("dinov2", "fd_dinov2")):
        imported = import_reference(path, DIMS, detector)
        assert np.array_equal(imported.mean, both[key]["mu"].astype(np.float64))
        np.testing.assert_allclose(imported.covariance, both[key]["sigma"], rtol=1e-6)
    assert import_reference(path, DIMS, "inception").count is None
    assert import_reference(path, DIMS, "dinov2").count == 1281167


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"fid": moments()}, r"statistics of dinov2 \(fd_dinov2\), found only those of fid"),
        ({"fd_dinov2": {"mu": moments()["mu"]}}, "sigma"),
        ({"fd_dinov2": {**moments(), "mu": "abc"}}, "array of numbers, found str"),
        ({"fd_dinov2": {**moments(), "mu": np.array(["a"] * DIMS)}}, "numbers"),
        ({"fd_dinov2": {**moments(), "mu": np.array([{}] * DIMS)}}, "expected bytes"),
        ({"fd_dinov2": {**moments(), "mu": np.zeros(DIMS + 1)}}, r"\[6\]"),
        ([moments()], "expected a dict, found list"),
        ({"fd_dinov2": moments(), "x": Path("x")}, "pathlib.*nothing in it was run"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, reason):
    path = tmp_path / "reference.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"{path}: .*{reason}.*evaluation\.reference"):
        import_reference(path, DIMS, "dinov2")


def test_a_truncated_pickle_is_refused(tmp_path):
    path = tmp_path / "reference.pkl"
    content = pickle.dumps({"fid": moments()})
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="reference.pkl"):
            import_reference(path, DIMS, "inception")
