"""Measures of collected features: which images take part, and what is told of them."""

import numpy as np
import pytest
import torch
from tiny import ROOT

from edm2.metrics import frechet_distance, kernel_distance, precision, recall
from edm2.metrics.collection import Collection
from edm2.metrics.reference import reference_of
from edm2.metrics.registry import MetricInputs, compute_metric
from edm2.params import UserError, load

CPU = torch.device("cpu")
DIMS = 4


class Means:
    """A detector of classes."""

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
    """In batches of mixed numbers, over several collections that are merged."""
    order = np.array_split(np.random.default_rng(1).permutation(len(data)), parts * ranks)
    found = [Collection(DIMS, counts, kept) for _ in range(ranks)]
    for k, numbers in enumerate(order):
        found[k % ranks].add(numbers.tolist(), data[numbers])
    for other in found[1:]:
        found[0].merge(other)
    return found[0]


def reference_from(data, kept=0):
    return reference_of(collected(data, [len(data)], kept))


def distance(a, b):
    moments = [x for z in (a, b) for x in (z.mean(axis=0, dtype=np.float64), np.cov(z.T))]
    return frechet_distance(*moments)


def compute(metric, *inputs):
    return compute_metric(metric, MetricInputs(*inputs))


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_collection_has_the_first_images_whatever_the_order(ranks):
    data = features(50)
    found = collected(data, [50, 20], kept=30, ranks=ranks)
    for count in (50, 20):
        assert found.moments[count].count == count
        np.testing.assert_allclose(found.moments[count].mean, data[:count].mean(0), atol=1e-6)
        np.testing.assert_allclose(
            found.moments[count].covariance, np.cov(data[:count].T), rtol=1e-5
        )
    for count in (30, 7):
        assert found.features(count).dtype == np.float32
        assert np.array_equal(found.features(count), data[:count])


@pytest.mark.parametrize(("kept", "count"), [(0, 1), (30, 31), (60, 51)])
def test_features_that_were_not_kept_are_not_made_up(kept, count):
    found = collected(features(50), [50], kept)
    with pytest.raises(ValueError, match=f"first {count} images: {min(kept, 50)} were kept"):
        found.features(count)


def test_only_the_images_asked_for_are_kept():
    """A batch is not held by a few of its rows, nor are moments by the images behind them."""
    found = collected(features(1000), [1000], kept=10)
    assert sum(rows.nbytes for _, rows in found._parts) == 10 * DIMS * 4
    assert all(rows.base is None for _, rows in found._parts)


def test_the_frechet_distance_is_to_all_training_images_and_the_others_to_as_many():
    ours, theirs = features(40, 1, 0.5), features(90, 2)
    generated = collected(ours, [40, 25], kept=40)
    reference = reference_from(theirs, kept=40)
    chosen = params(neighbors=2)
    for count in (40, 25):
        a, b = ours[:count], theirs[:count]
        found = {
            m: compute(m, generated, reference, count, chosen, Means(), CPU)
            for m in ("fd", "kid", "precision", "recall")
        }
        assert found["fd"].value == pytest.approx(distance(a, theirs), rel=1e-6)
        kid = found["kid"].value, found["kid"].standard_error
        assert kid == kernel_distance(a, b)
        assert found["precision"].value == precision(a, b, 2) != precision(a, b, 3)
        assert found["recall"].value == recall(a, b, 2) != found["precision"].value
        assert [m.reference for m in found.values()] == [90, count, count, count]
        assert not any(m.singular for m in found.values())
        assert [m.standard_error is None for m in found.values()] == [True, False, True, True]


def test_fewer_training_images_than_generated_all_take_part():
    ours, theirs = features(40, 1, 0.5), features(30, 2)
    found = compute(
        "precision",
        collected(ours, [40], kept=40),
        reference_from(theirs, kept=40),
        40,
        params(),
        Means(),
        CPU,
    )
    assert (found.value, found.reference) == (precision(ours, theirs, 3), 30)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 50), (50, 3)])
def test_a_singular_covariance_is_refused_or_marked(ours, theirs):
    """No more images than the 4 dimensions, on either side."""
    generated = collected(features(ours, 1), [ours])
    reference = reference_from(features(theirs, 2))
    with pytest.raises(UserError, match="3 images: expected more than the 4 feature dimensions"):
        compute("fd", generated, reference, ours, params(), Means(), CPU)
    found = compute("fd", generated, reference, ours, params(allow_singular=True), Means(), CPU)
    assert found.singular
    assert np.isfinite(found.value)


@pytest.mark.parametrize(("metric", "least"), [("kid", 3), ("precision", 6), ("recall", 6)])
def test_too_few_images_for_a_measure_are_refused_on_either_side(metric, least):
    for ours, theirs in ((least - 1, 50), (50, least - 1)):
        generated = collected(features(ours, 1), [ours], kept=50)
        reference = reference_from(features(theirs, 2), kept=50)
        with pytest.raises(UserError, match=f"{metric} of {ours} generated .*at least {least} of"):
            compute(metric, generated, reference, ours, params(neighbors=5), Means(), CPU)
    generated = collected(features(least, 1), [least], kept=50)
    reference = reference_from(features(least, 2), kept=50)
    found = compute(metric, generated, reference, least, params(neighbors=5), Means(), CPU)
    assert np.isfinite(found.value)


def test_the_inception_score_is_of_what_the_detector_reads_in_the_features():
    """Ten parts in their order; exp of the mean of Σ p ln(p / mean p), by hand."""
    data = features(40, 1)
    generated, reference = collected(data, [40, 23], kept=40), reference_from(features(9, 2))
    for count in (40, 23):
        p = np.exp(data[:count].astype(np.float64))
        p /= p.sum(1, keepdims=True)
        parts = [p[count * k // 10 : count * (k + 1) // 10] for k in range(10)]
        scores = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in parts]
        found = compute("is", generated, reference, count, params(), Means(), CPU)
        assert found.value == pytest.approx(np.mean(scores), rel=1e-5)
        assert found.standard_error == pytest.approx(np.std(scores) / np.sqrt(10), rel=1e-4)
        assert (found.reference, found.singular) == (None, False)
