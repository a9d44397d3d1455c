"""Metrics of collected features: which images they use, and what is returned with the value."""

import numpy as np
import pytest
import torch
from tiny import ROOT

from edm2.metrics import frechet_distance, kernel_distance, precision, recall
from edm2.metrics.collection import Collection
from edm2.metrics.reference import build_reference
from edm2.metrics.registry import MetricInputs, MetricValue, compute_metric
from edm2.params import UserError, load
from edm2.params.errors import NotFiniteError

CPU = torch.device("cpu")
DIMS = 4


class Means:
    """A detector that also classifies."""

    name, dims, fingerprint = "means", DIMS, ""

    def features(self, images): ...

    def probabilities(self, features):
        return features.softmax(1)


def params(**changes):
    return load(ROOT / "params.yaml").evaluation.model_copy(update=changes)


def features(count, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (count, DIMS)).astype(np.float32)


def collected(data, counts, kept=0, parts=3, ranks=1):
    """A collection of `data`, added in random order to one collection per rank, then merged."""
    order = np.array_split(np.random.default_rng(1).permutation(len(data)), parts * ranks)
    collections = [Collection(DIMS, counts, kept) for _ in range(ranks)]
    for k, numbers in enumerate(order):
        collections[k % ranks].add(numbers.tolist(), data[numbers])
    for other in collections[1:]:
        collections[0].merge(other)
    return collections[0]


def reference_from(data, kept=0):
    return build_reference(collected(data, [len(data)], kept))


def expected_distance(a, b):
    moments = [x for z in (a, b) for x in (z.mean(axis=0, dtype=np.float64), np.cov(z.T))]
    return frechet_distance(*moments)


def compute(metric, *inputs):
    return compute_metric(metric, MetricInputs(*inputs))


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_collection_has_the_first_images_in_any_order_of_adding(ranks):
    data = features(50)
    collection = collected(data, [50, 20], kept=30, ranks=ranks)
    for count in (50, 20):
        moments = collection.moments[count]
        assert moments.count == count
        np.testing.assert_allclose(moments.mean, data[:count].mean(0), atol=1e-6)
        np.testing.assert_allclose(moments.covariance, np.cov(data[:count].T), rtol=1e-5)
    for count in (30, 7):
        assert collection.features(count).dtype == np.float32
        assert np.array_equal(collection.features(count), data[:count])


def test_the_extrapolated_distance_has_an_error_and_compares_with_all_training_images():
    """Of one distribution: it is 0 within 4 errors, and below the plain distance."""
    collection, reference = collected(features(400), [400], 400), reference_from(features(5000, 1))
    inputs = collection, reference, 400, params(), Means(), CPU
    found, plain = compute("fd_inf", *inputs), compute("fd", *inputs)
    assert found.reference == 5000
    assert abs(found.value) < 4 * found.standard_error
    assert found.value < plain.value


@pytest.mark.parametrize(("kept", "count"), [(0, 1), (30, 31), (60, 51)])
def test_features_that_were_not_kept_raise_an_error(kept, count):
    collection = collected(features(50), [50], kept)
    with pytest.raises(ValueError, match=f"{count} .*{min(kept, 50)}"):
        collection.features(count)


def test_only_kept_features_stay_in_memory():
    """Kept rows are copies: a view would keep its whole batch in memory."""
    collection = collected(features(1000), [1000], kept=10)
    assert sum(rows.nbytes for _, rows in collection._parts) == 10 * DIMS * 4
    assert all(rows.base is None for _, rows in collection._parts)


def test_fd_uses_all_training_images_and_the_others_as_many_as_are_generated():
    fake, real = features(40, 1, 0.5), features(90, 2)
    generated = collected(fake, [40, 25], kept=40)
    reference = reference_from(real, kept=40)
    two_neighbors = params(neighbors=2)
    for count in (40, 25):
        a, b = fake[:count], real[:count]
        values = {
            m: compute(m, generated, reference, count, two_neighbors, Means(), CPU)
            for m in ("fd", "kid", "precision", "recall")
        }
        assert values["fd"].value == pytest.approx(expected_distance(a, real), rel=1e-6)
        kid = values["kid"].value, values["kid"].standard_error
        assert kid == kernel_distance(a, b)
        assert values["precision"].value == precision(a, b, 2) != precision(a, b, 3)
        assert values["recall"].value == recall(a, b, 2) != values["precision"].value
        assert [m.reference for m in values.values()] == [90, count, count, count]
        assert not any(m.singular for m in values.values())
        assert [m.standard_error is None for m in values.values()] == [True, False, True, True]


def test_all_training_images_are_used_if_fewer_than_generated():
    fake, real = features(40, 1, 0.5), features(30, 2)
    generated, reference = collected(fake, [40], kept=40), reference_from(real, kept=40)
    metric = compute("precision", generated, reference, 40, params(), Means(), CPU)
    assert (metric.value, metric.reference) == (precision(fake, real, 3), 30)


@pytest.mark.parametrize(("fake", "real"), [(3, 50), (50, 3)])
def test_a_singular_covariance_is_refused_or_marked(fake, real):
    """No more generated, or no more training images than the 4 dimensions."""
    generated = collected(features(fake, 1), [fake])
    reference = reference_from(features(real, 2))
    with pytest.raises(UserError, match=r"3 images.* 4 .*evaluation\.allow_singular"):
        compute("fd", generated, reference, fake, params(), Means(), CPU)
    allowed = params(allow_singular=True)
    metric = compute("fd", generated, reference, fake, allowed, Means(), CPU)
    assert metric.singular
    assert np.isfinite(metric.value)


@pytest.mark.parametrize(("name", "minimum"), [("kid", 3), ("precision", 6), ("recall", 6)])
def test_too_few_images_for_a_metric_are_refused(name, minimum):
    for fake, real in ((minimum - 1, 50), (50, minimum - 1)):
        generated = collected(features(fake, 1), [fake], kept=50)
        reference = reference_from(features(real, 2), kept=50)
        with pytest.raises(UserError, match=f"{name} of {fake} .*{min(fake, real)} .*{minimum}"):
            compute(name, generated, reference, fake, params(neighbors=5), Means(), CPU)
    generated = collected(features(minimum, 1), [minimum], kept=50)
    reference = reference_from(features(minimum, 2), kept=50)
    metric = compute(name, generated, reference, minimum, params(neighbors=5), Means(), CPU)
    assert np.isfinite(metric.value)


def test_the_inception_score_uses_the_detectors_probabilities():
    """By hand: ten consecutive parts, exp of the mean of Σ p ln(p / mean p)."""
    data = features(40, 1)
    generated, reference = collected(data, [40, 23], kept=40), reference_from(features(9, 2))
    for count in (40, 23):
        p = np.exp(data[:count].astype(np.float64))
        p /= p.sum(1, keepdims=True)
        parts = [p[count * k // 10 : count * (k + 1) // 10] for k in range(10)]
        scores = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in parts]
        metric = compute("is", generated, reference, count, params(), Means(), CPU)
        assert metric.value == pytest.approx(np.mean(scores), rel=1e-5)
        assert metric.standard_error == pytest.approx(np.std(scores) / np.sqrt(10), rel=1e-4)
        assert (metric.reference, metric.singular) == (None, False)


def test_a_metric_that_is_not_finite_is_refused(monkeypatch):
    """A plug-in may compute anything."""
    monkeypatch.setattr("edm2.metrics.registry.fd", lambda inputs: MetricValue(float("nan"), None))
    data = features(20)
    inputs = (collected(data, [20]), reference_from(data), 20, params(), Means(), CPU)
    with pytest.raises(NotFiniteError, match="fd of 20 images with the detector means is nan"):
        compute("fd", *inputs)
