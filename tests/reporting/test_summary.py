"""The files of final numbers that DVC makes tables and plots of."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from network_rows import concatenated, network_rows

from edm2.reporting.summary import write_summary
from edm2.reporting.trainings import best_networks, by_training

METRICS = {
    "vae": {"psnr": 30.0, "ssim": 0.9, "latent/std": 2.0, "evaluated_images": 270},
    "baselines": {"held_out/fd_classifier_200": 5.0},
    "features": {"accuracy_held_out": 0.98, "accuracy_of_chance": 0.1, "at_chance": False},
}


@pytest.fixture
def written(tmp_path):
    """written(seeds): what is written of configs A and G."""

    def write(*seeds):
        tables = [
            network_rows((3.0 + seed, 1.0 + seed, 2.0 + seed)).assign(config=c, training_seed=seed)
            for c in "AG"
            for seed in seeds
        ]
        networks = concatenated(*tables)
        curve = pd.DataFrame({"nimg": [500, 750, 1000], "train/weighted_mse": [0.5, None, 0.25]})
        best = {c: best_networks(rows) for c, rows in by_training(networks).items()}
        training = {c: dict.fromkeys(seeds, curve) for c in "AG"}
        outputs = SimpleNamespace(
            networks=networks, best_networks=best, training=training, metrics=METRICS.get
        )
        write_summary(outputs, tmp_path)  # type: ignore[arg-type]
        return tmp_path

    return write


def read(path):
    return json.loads(path.read_text())


def test_each_config_has_a_file_of_its_best_network(written):
    folder = written(0)
    assert sorted(path.name for path in (folder / "best").iterdir()) == ["A.json", "G.json"]
    assert read(folder / "best/G.json") == {"fd_classifier_1k": 1.0, "ema_length": 0.1}


def test_of_several_trainings_it_has_mean_and_interval(written):
    """Values 1 and 3: Student's t with one degree of freedom is 12.706."""
    best = read(written(0, 2) / "best/A.json")
    assert best["fd_classifier_1k"] == 2.0
    assert best["fd_classifier_1k_low"] == pytest.approx(2 - 12.706, abs=1e-3)
    assert best["fd_classifier_1k_high"] == pytest.approx(2 + 12.706, abs=1e-3)


def test_what_configs_share_is_in_one_file_and_nothing_is_in_two(written):
    folder = written(0)
    shared = read(folder / "shared.json")
    assert shared == {
        "psnr": 30.0,
        "ssim": 0.9,
        "held_out_fd_classifier_200": 5.0,
        "accuracy_held_out": 0.98,
        "at_chance": False,
    }
    assert not shared.keys() & read(folder / "best/A.json").keys()


def test_metrics_json_has_everything(written):
    metrics = read(written(0) / "metrics.json")
    assert metrics["vae/latent/std"] == 2.0
    assert metrics["A/best/ema_length"] == 0.1
    assert metrics["baselines/held_out/fd_classifier_200"] == 5.0


def test_the_loss_of_each_training_leaves_out_rows_of_other_measurements(written):
    losses = pd.read_csv(written(0, 1) / "training.csv")
    assert list(losses) == ["config", "training_seed", "nimg", "weighted_mse"]
    assert losses.groupby(["config", "training_seed"]).size().tolist() == [2, 2, 2, 2]
    assert losses["weighted_mse"].tolist() == [0.5, 0.25] * 4
