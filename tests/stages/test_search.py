"""`sweep.search`: rounds of items, shared and resumed, and the table that they end in.

Images have made-up features, with a distance that is lowest at a known EMA length.
"""

import shutil
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import REPLICATE, TINY, entered, make_project, run_stage, write_params

from edm2.cli.main import edm2
from edm2.ema.store import SnapshotStore
from edm2.metrics.collection import Collection
from edm2.metrics.frechet import frechet_distance
from edm2.metrics.minima import coordinate
from edm2.metrics.search import PILOT, START, WINDOW, Search
from edm2.metrics.statistics import Statistics
from edm2.params import UserError, load
from edm2.pipeline.detection import detector_for, reference_for
from edm2.pipeline.evaluator import Evaluator, GeneratedImages
from edm2.pipeline.paths import sweep_folder
from edm2.reporting.changes import Variant
from edm2.reporting.compare import configs_table
from edm2.reporting.seed_curves import SeedCurves
from edm2.reporting.selection import best_of, ema_curve, fresh_seeds_row, read_networks
from edm2.reporting.sweeps import guidance_curves, minima
from edm2.reporting.tables import ablation_table, networks_table
from edm2.runtime.manifest import read_manifest

BEST, STRENGTH = 0.12, 1.7
RANGE = {"low": 0.01, "high": 0.25, "tolerance": 0.01}
SEARCH = {
    **TINY,
    "sweep.search": RANGE,
    "sweep.materialize": False,
    "evaluation.samples": 40,
    "evaluation.seed_blocks": 30,
    "evaluation.grid_columns": 1,
}
TABLE = f"reports/fid/{REPLICATE}.csv"
ITEMS = f".state/fid-{REPLICATE}/*/items/*"


def made_up(self, folder, network, strength, first_seed, progress):
    """Features of training images, moved by the distance of the EMA length from the best one."""
    count = self.params.evaluation.samples
    seeds = range(first_seed, first_seed + count)
    real = self.reference.features
    features = real[np.random.default_rng(first_seed).integers(0, len(real), count)]
    away = np.zeros(self.detector.dims)
    away[0::2] = coordinate(network.ema_length) - coordinate(BEST)
    away[1::2] = 0.0 if strength == 1 else strength - STRENGTH
    collection = Collection(self.detector.dims, self.counts, self.kept_features)
    collection.add(range(count), (features + 0.5 * real.std(axis=0) * away).astype(np.float32))
    labels = self.sampler.labels(seeds)
    grid = sorted(self._grid_numbers(labels))
    images = torch.zeros(len(grid), 3, 16, 16, dtype=torch.uint8)
    return GeneratedImages(collection, images, labels[grid])


@pytest.fixture(autouse=True, scope="module")
def no_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "generate", made_up)
        yield


def evaluate(config="G"):
    edm2.main(["evaluate", config], prog_name="edm2", standalone_mode=False)


def counted(patch, first=lambda: None):
    """The items that are made, by thread; `first` is called in each thread before its first."""
    made = {}

    def generate(self, *args):
        items = made.setdefault(threading.get_ident(), [])
        items.append((args[1].name, args[3]))
        if len(items) == 1:
            first()
        return made_up(self, *args)

    patch.setattr(Evaluator, "generate", generate)
    return made


@pytest.fixture(scope="module")
def searched(finished, no_images, tmp_path_factory):
    """A project with the results of a search."""
    folder = make_project(tmp_path_factory.mktemp("searched"), SEARCH, finished)
    with entered(folder):
        run_stage("sweep_ema", "G")
        run_stage("fid", "G")
    return folder


@pytest.fixture
def unsearched(searched, tmp_path):
    """The same project before the search."""
    folder = tmp_path / "project"
    shutil.copytree(searched, folder, symlinks=True)
    shutil.rmtree(folder / ".state")
    (folder / TABLE).unlink()
    with entered(folder):
        yield folder


@pytest.fixture(scope="module")
def table(searched):
    return read_networks([searched / TABLE])


def test_all_evaluations_are_in_the_table(searched, table):
    search = Search(**RANGE, max_blocks=30)
    items = table[table["merged_blocks"].isna()]
    merged = table[table["merged_blocks"].notna() & (table["seeds"] == "sweep")]
    best = best_of(table)
    assert set(items["ema_length"]) - {best["ema_length"]} <= set(search.lengths)
    assert {length for length, _ in search.first_points} <= set(items["ema_length"])
    for length, part in items[items["seeds"] == "sweep"].groupby("ema_length"):
        (row,) = merged[merged["ema_length"] == length].to_dict("records")
        assert sorted(part["first_seed"]) == [40 * k for k in range(int(row["merged_blocks"]))]
        assert row["samples"] == 40 * row["merged_blocks"]
    counts = Counter(merged["merged_blocks"])
    assert min(counts) == START
    assert counts[max(counts)] > WINDOW
    assert len(list(searched.glob(f"{ITEMS}.json"))) == len(items)


def test_the_best_network_is_at_the_minimum_and_confirmed(table):
    best = best_of(table)
    assert best["metric"] == "fd_classifier_inf"
    assert best["ema_length"] == round(best["minimum"], 4)
    assert best["minimum_low"] <= BEST <= best["minimum_high"]
    assert best["minimum_known"]
    assert best["minimum_high"] - best["minimum_low"] == pytest.approx(2 * RANGE["tolerance"])
    fresh = fresh_seeds_row(table, best)
    assert fresh["merged_blocks"] == best["merged_blocks"]
    assert fresh["first_seed"] == 40 * 30
    curve = ema_curve(table)
    assert curve["ema_length"].is_monotonic_increasing
    assert set(curve["network"]) == set(table["network"])


def test_values_are_distances_of_all_blocks_extrapolated(searched, table):
    """K f(all) − (K − 1) mean f(all but one), from the features of the blocks together."""
    best = best_of(table)
    with entered(searched):
        reference = reference_for(detector_for(load("params.yaml"), torch.device("cpu")))
    (folder,) = {path.parent for path in searched.glob(ITEMS)}
    count, blocks = int(best["merged_blocks"]), []
    for k in range(count):
        saved = load_file(folder / f"{best['network']}-w1.0-{40 * k}.moments")
        blocks.append(Statistics(40, saved["mean"].numpy(), saved["scatter"].numpy()))

    def distance(kept):
        total = Statistics.empty(len(reference.mean))
        for k in kept:
            total.merge(blocks[k])
        return frechet_distance(total.mean, total.covariance, reference.mean, reference.covariance)

    every = distance(range(count))
    others = [distance([k for k in range(count) if k != left]) for left in range(count)]
    expected = count * every - (count - 1) * sum(others) / count
    assert best["curve_value"] == pytest.approx(expected, rel=1e-9)


class Killed(BaseException):
    pass


def test_a_search_that_is_killed_ends_in_the_same_table(searched, unsearched):
    items, made = len(list(searched.glob(f"{ITEMS}.json"))), []
    stops = [3, PILOT * WINDOW, items - 1]

    def killed(self, *args):
        if len(made) in stops:
            stops.remove(len(made))
            raise Killed
        made.append((args[1].name, args[3]))
        return made_up(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "generate", killed)
        for _ in range(3):
            with pytest.raises(Killed):
                evaluate()
        run_stage("fid", "G")
    assert len(made) == len(set(made)) == items
    assert (unsearched / TABLE).read_text() == (searched / TABLE).read_text()


def test_launches_share_a_search(searched, unsearched):
    with pytest.MonkeyPatch.context() as patch:
        made = counted(patch, threading.Barrier(2, timeout=100).wait)
        command = threading.Thread(target=evaluate)
        command.start()
        run_stage("fid", "G")
        command.join()
    assert len(made) == 2
    assert set(Counter(item for items in made.values() for item in items).values()) == {1}
    assert (unsearched / TABLE).read_text() == (searched / TABLE).read_text()


def test_damaged_moments_are_named(searched, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(searched, folder, symlinks=True)
    damaged = sorted(folder.glob(f"{ITEMS}.moments"))[5]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with entered(folder), pytest.raises(UserError, match=rf"{damaged.name}: SHA-256.*Remove"):
        evaluate()


def test_any_network_of_the_range_can_be_sampled(searched, tmp_path):
    folder = sweep_folder(REPLICATE)

    def sample(name):
        options = ["--seeds", "0", "--out", str(tmp_path / "images")]
        edm2.main(["sample", str(folder / name), *options], standalone_mode=False)

    with entered(searched):
        assert read_manifest(folder)["search"] == RANGE
        sample(f"{1024:012d}-ema_length-0.1234.safetensors")
        with pytest.raises(UserError, match=r"no such network.* from 0.01 to 0.25"):
            sample("none.safetensors")


def test_the_report_and_comparisons_have_the_interval(table):
    best = best_of(table)
    interval = f"{best['minimum_low']:.3g} to {best['minimum_high']:.3g}"
    (row,) = ablation_table(table).to_dict("records")
    assert (row["ours: EMA length"], row["ours: its interval"]) == (best["ema_length"], interval)
    assert (row["ours: fd_classifier_inf"], best["valued_on"]) == (best["value"], "fresh seeds")
    variants = [Variant(name, [name], "G", {}, {0: table}) for name in ("one", "two")]
    assert configs_table(variants, [])["its interval"].tolist() == [interval] * 2
    networks = networks_table(table)
    assert networks["merged_blocks"].max() == table["merged_blocks"].max()
    assert len(networks) == len(table[table["merged_blocks"].notna()])


def test_trainings_are_compared_at_their_own_minimum_and_at_common_lengths(table):
    other = table.assign(value=table["value"] + 1, training_seed=1)
    curves = SeedCurves.of({0: table, 1: other})
    fresh = fresh_seeds_row(table, best_of(table))["value"]
    assert curves.own_best(curves.valued_on) == {0: [fresh], 1: [fresh + 1]}
    without = [part[part["seeds"] == "sweep"] for part in (table, other)]
    curves = SeedCurves.of(dict(enumerate(without)))
    found = table[table["minimum"].notna()]["value"].item()
    assert curves.own_best(curves.valued_on) == {0: [found], 1: [found + 1]}
    first = Search(**RANGE, max_blocks=30).first_points
    assert {length for length, _ in first} < set(curves.lengths)


def test_an_average_of_fixed_length_is_evaluated_alone(unsearched, monkeypatch):
    """As that of config A, which has nothing to search."""
    monkeypatch.setattr(SnapshotStore, "has_fixed_lengths", property(lambda store: True))
    run_stage("sweep_ema", "G")
    run_stage("fid", "G")
    table = read_networks([unsearched / TABLE])
    assert table["network"].nunique() == 1
    best = best_of(table)
    assert (best["metric"], best["merged_blocks"], best["at_edge"]) == (
        "fd_classifier_inf",
        PILOT,
        False,
    )
    assert len(ema_curve(table)) == 1
    assert "ours: its interval" not in ablation_table(table)


def test_strengths_are_searched_as_well(unsearched):
    guidance = {
        "guidance.guide": "snapshot",
        "guidance.ema_length": 0.1,
        "guidance.strength": [1.25, 1.75, 2.25],
    }
    write_params(unsearched / "params.yaml", {**SEARCH, **guidance, "sweep.search.tolerance": 0.06})
    run_stage("sweep_ema", "G")
    run_stage("fid", "G")
    table = read_networks([unsearched / TABLE])
    best = best_of(table)
    assert best["minimum_low"] <= BEST <= best["minimum_high"]
    assert best["minimum_guidance_low"] <= STRENGTH <= best["minimum_guidance_high"]
    assert (best["ema_length"], best["guidance"]) == (
        round(best["minimum"], 4),
        round(best["minimum_guidance"], 4),
    )
    assert fresh_seeds_row(table, best)["guidance"] == best["guidance"]
    curve = ema_curve(table)
    assert best["network"] in set(curve["network"])
    assert len(curve) > WINDOW
    assert curve["guidance"].nunique() == 2  # the strength next to the best, and that
    (row,) = ablation_table(table).to_dict("records")
    assert "ours: interval of guidance" in row
    assert not minima(guidance_curves(table), "guidance").empty
