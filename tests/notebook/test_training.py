import numpy as np
import pytest
import torch
from scipy import stats

from edm2.ema import reconstruct
from edm2.metrics import frechet_distance
from edm2.notebook import open_training
from edm2.params import UserError
from edm2.sampling import heun

LENGTH = 0.1


@pytest.fixture
def training(finished, monkeypatch):
    monkeypatch.chdir(finished / "reports")  # a folder of the project
    return open_training()


@pytest.fixture
def tensors(training):
    [(_, tensors)] = reconstruct(training.store, [LENGTH])
    return tensors


def test_the_seeds_of_the_pipeline_have_the_distance_of_the_pipeline(training, tensors):
    curve = training.ema_curve().set_index("ema_length")["value"]
    assert list(curve.index) == [0.05, 0.1, 0.2]
    measured = training.distance(tensors, range(training.params.evaluation.samples))
    assert measured.value == pytest.approx(curve[LENGTH], rel=0.01)  # its networks are float16
    assert measured.images == 300


def test_the_interval_is_that_of_a_jackknife_over_ten_groups_of_images(training, tensors):
    seeds = range(1000, 1200)
    features = training._detector.features(training.images(tensors, seeds)).double().numpy()
    real = training._reference

    def distance(rows):
        return frechet_distance(rows.mean(0), np.cov(rows.T), real.mean, real.covariance)

    left_out = [distance(np.delete(features, range(k, k + 20), 0)) for k in range(0, 200, 20)]
    half = stats.t.ppf(0.975, 9) * np.sqrt(9 / 10 * np.sum((left_out - np.mean(left_out)) ** 2))
    measured = training.distance(tensors, seeds)
    expected = distance(features) + np.array([0, -half, half])
    assert [measured.value, measured.low, measured.high] == pytest.approx(expected.tolist())


def test_its_parts_make_the_images_that_it_makes_at_once(training, tensors):
    seeds = range(5, 9)
    denoise, labels = training.denoiser(tensors), training.labels(seeds)
    assert labels.tolist() == [5, 6, 7, 8]
    steps = training.params.sampling.steps
    latents = heun(lambda x, sigma: denoise(x, sigma, labels), training.noise(seeds), steps)
    images = training.images(tensors, seeds)
    assert images.shape == (4, 3, 16, 16)
    assert torch.equal(training.decode(latents), images)


def test_a_training_that_the_project_does_not_have_is_refused(finished, monkeypatch):
    monkeypatch.chdir(finished)
    with pytest.raises(UserError, match=r"open_training\('F-3'\).*G-0"):
        open_training("F-3")


def test_a_missing_table_names_the_way_to_get_it(training, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"reports/fid/G-0.csv.*dvc repro"):
        training.ema_curve()


def test_without_a_project_there_is_nothing_to_open(root):
    with pytest.raises(UserError, match="not a project"):
        open_training()
