"""Sweeps over time and single tensors, and fresh seeds, on a tiny project."""

import shutil

import pandas as pd
import pytest
import torch
from page_text import page_text
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY, make_project, run_stage, write_params

from edm2.ema import SnapshotStore, reconstruct
from edm2.params import UserError
from edm2.pipeline.evaluator import Evaluator
from edm2.pipeline.network_reader import NetworkReader
from edm2.reporting.selection import best_of
from edm2.runtime.manifest import read_manifest

LENGTHS, TIMES = (0.05, 0.1, 0.2), (512, 1024)


@pytest.fixture(scope="module")
def swept(finished, tmp_path_factory):
    """A project with both sweeps done, and its report."""
    folder = tmp_path_factory.mktemp("swept")
    make_project(
        folder,
        {
            **TINY,
            "sweep.nimg": list(TIMES),
            "sweep.tensors": ["*-affine"],
            "sweep.tensors_base": 0.1,
        },
    )
    for results in ("data", "models", "reports"):
        shutil.copytree(finished / results, folder / results)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        for stage in ("sweep_ema", "fid"):
            run_stage(stage, "G")
        run_stage("report")
    return folder


def networks(folder, **wanted):
    """Of the sweep's manifest, those with these values, by length."""
    listed = read_manifest(folder / "models/sweep/G-0")["networks"]
    return {n["ema_length"]: n for n in listed if wanted.items() <= n.items()}


def tensors_of(folder, network):
    return load_file(folder / "models/sweep/G-0" / network["file"])


def counted(monkeypatch, stop_at=None):
    """Count networks that images are made with; be interrupted at one of them."""
    made, generate = [], Evaluator.generate

    def generated(self, folder, network, strength, first_seed, progress):
        made.append((network.file, first_seed))
        if len(made) == stop_at:
            raise KeyboardInterrupt
        return generate(self, folder, network, strength, first_seed, progress)

    monkeypatch.setattr(Evaluator, "generate", generated)
    return made


def test_the_manifest_lists_a_network_per_length_time_and_pattern(swept):
    manifest = read_manifest(swept / "models/sweep/G-0")
    listed = [(n["nimg"], n["tensors"], n["ema_length"]) for n in manifest["networks"]]
    expected = [
        *((nimg, "all", s) for nimg in TIMES for s in LENGTHS),
        *((1024, "*-affine", s) for s in LENGTHS),
    ]
    assert sorted(listed) == sorted(expected)
    files = [n["file"] for n in manifest["networks"]]
    assert sorted(files) == sorted(manifest["files"])
    assert len(set(files)) == len(expected)


def test_networks_of_a_time_are_averages_that_end_there(swept):
    store = SnapshotStore(swept / "models/ema/G-0")
    for nimg in TIMES:
        made = networks(swept, nimg=nimg, tensors="all")
        for spec, tensors in reconstruct(store, LENGTHS, nimg):
            written = tensors_of(swept, made[spec.sigma_rel])
            assert made[spec.sigma_rel]["snapshots"] == spec.snapshots == 2 * nimg // 256
            for name, tensor in tensors.items():
                torch.testing.assert_close(written[name].float(), tensor, rtol=1e-3, atol=1e-6)


def test_weights_of_snapshots_are_divided_by_their_sum_unless_params_say_no(project, swept):
    folder = project(sweep__normalize_weights=False)
    run_stage("sweep_ema", "G")
    store = SnapshotStore(folder / "models/ema/G-0")
    ((average, tensors),) = reconstruct(store, [0.2], normalize=False)
    printed, default = networks(folder)[0.2], networks(swept, nimg=1024, tensors="all")[0.2]
    assert printed["weight_sum"] == default["weight_sum"] == average.weight_sum
    assert abs(average.weight_sum - 1) > 2e-3
    written, divided = tensors_of(folder, printed), tensors_of(swept, default)
    for name, tensor in tensors.items():
        torch.testing.assert_close(written[name].float(), tensor, rtol=1e-3, atol=1e-6)
        if name in store.parameters and tensor.any():
            assert not torch.equal(written[name], divided[name])


def test_networks_of_single_tensors_differ_from_the_base_in_those_alone(swept):
    """Those tensors are as in the network whose length all tensors have."""
    whole, single = (networks(swept, nimg=1024, tensors=t) for t in ("all", "*-affine"))
    base = tensors_of(swept, whole[0.1])
    affine = {name for name in base if name.endswith("affine.weight")}
    assert affine
    assert affine < base.keys()
    for length in LENGTHS:
        same, other = tensors_of(swept, whole[length]), tensors_of(swept, single[length])
        differing = {name for name in base if not torch.equal(base[name], other[name])}
        assert differing == (affine if length != 0.1 else set())
        assert all(torch.equal(same[name], other[name]) for name in affine)


def test_an_unknown_tensor_is_refused_with_the_nearest_one(project):
    project(sweep__tensors=["enc-4x4-block0-afine"], sweep__tensors_base=0.1)
    with pytest.raises(
        UserError, match=r"sweep.tensors: 'enc-4x4-block0-afine'.*4x4-block0-affine"
    ):
        run_stage("sweep_ema", "G")


def test_names_of_the_papers_list_are_refused_where_a_network_lacks_them(project):
    project(sweep__tensors=["paper"], sweep__tensors_base=0.1)
    with pytest.raises(UserError, match="sweep.tensors: 'enc-64x64-conv'"):
        run_stage("sweep_ema", "G")


def test_tables_have_a_curve_per_time_and_pattern(swept):
    table = pd.read_csv(swept / "reports/fid/G-0.csv")
    sweep = table[table["seeds"] == "sweep"]
    for _, rows in sweep.groupby(["metric", "nimg", "tensors"]):
        assert sorted(rows["ema_length"]) == list(LENGTHS)
    groups = set(sweep[["nimg", "tensors"]].itertuples(index=False, name=None))
    assert groups == {(512, "all"), (1024, "all"), (1024, "*-affine")}
    assert set(table["network"]) == {
        file.stem for file in (swept / "models/sweep/G-0").glob("*.safetensors")
    }
    assert (table["value"] > 0).all()


def test_the_same_tensors_make_the_same_images(swept):
    """At the base length the network of single tensors is that of the base."""
    table = pd.read_csv(swept / "reports/fid/G-0.csv")
    same = table[
        (table["nimg"] == 1024) & (table["ema_length"] == 0.1) & (table["seeds"] == "sweep")
    ]
    for _, rows in same.groupby("metric"):
        assert len(rows) == 2
        assert rows["value"].nunique() == 1


def test_the_report_has_a_section_per_sweep(swept):
    page = page_text((swept / "reports/index.html").read_text())
    for heading, by, values in (
        ("Training time", "nimg", ["512", "1024"]),
        ("Per-tensor EMA length", "tensors", ["all", "*-affine"]),
    ):
        assert f">{heading}</h2>" in page
        table = pd.read_csv(swept / f"reports/sweeps/{by}.csv", dtype={by: str})
        assert table[by].tolist() == values
        with Image.open(swept / f"reports/sweeps/{by}.png") as picture:
            assert min(picture.size) > 100


def test_without_sweeps_there_are_no_sections_but_the_folder(finished):
    page = page_text((finished / "reports/index.html").read_text())
    assert "Training time</h2>" not in page
    assert "Per-tensor EMA length</h2>" not in page
    assert [path.name for path in (finished / "reports/sweeps").iterdir()] == ["manifest.json"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["finished", "swept"])
def test_the_best_network_is_measured_again_on_other_seeds(request, which):
    """It is chosen by the sweep alone: by the lowest value of whole networks at the end."""
    table = pd.read_csv(request.getfixturevalue(which) / "reports/fid/G-0.csv")
    sweep, fresh = (table[table["seeds"] == seeds] for seeds in ("sweep", "fresh"))
    assert len(sweep) + len(fresh) == len(table)
    assert fresh["metric"].tolist() == table["metric"].unique().tolist()
    assert fresh["network"].nunique() == 1
    seeds = [range(r.first_seed, r.first_seed + r.samples) for r in sweep.itertuples()]
    for row in fresh.itertuples():
        new = range(row.first_seed, row.first_seed + row.samples)
        assert not any(set(new) & set(old) for old in seeds)
        (old,) = sweep[(sweep["network"] == row.network) & (sweep["metric"] == row.metric)]["value"]
        assert row.value != old
    curve = sweep[(sweep["samples"] == 300) & (sweep["tensors"] == "all") & (sweep["nimg"] == 1024)]
    lowest = curve.loc[curve["value"].idxmin()]
    assert fresh["network"].iloc[0] == best_of(table)["network"] == lowest["network"]


def test_the_report_shows_the_number_of_fresh_seeds(finished):
    table = pd.read_csv(finished / "reports/fid/G-0.csv")
    (value,) = table[(table["seeds"] == "fresh") & (table["samples"] == 300)]["value"]
    ablation = pd.read_csv(finished / "reports/ablation.csv")
    assert ablation["ours: fd_classifier_300"].tolist() == pytest.approx([value])
    assert ablation["ours: valued on"].tolist() == ["fresh seeds"]
    page = page_text((finished / "reports/index.html").read_text())
    assert f"fd_classifier_300 = {value:.4g} on fresh seeds (" in page
    assert "evaluation.confirm" not in page


def test_fresh_seeds_need_not_be_asked_for(project, finished):
    folder = project(evaluation__confirm=False)
    run_stage("fid", "G")
    run_stage("report")
    table, before = (pd.read_csv(p / "reports/fid/G-0.csv") for p in (folder, finished))
    pd.testing.assert_frame_equal(table, before[before["seeds"] == "sweep"])
    assert "evaluation.confirm" in page_text((folder / "reports/index.html").read_text())
    assert "ours: on fresh seeds" not in pd.read_csv(folder / "reports/ablation.csv")


@pytest.mark.parametrize("stop_at", [3, 4], ids=["in the sweep", "at the fresh seeds"])
def test_an_interrupted_measurement_goes_on_with_the_next_network(
    project, finished, monkeypatch, stop_at
):
    folder = project()
    (folder / "reports/fid/G-0.csv").unlink()
    shutil.rmtree(folder / "reports/samples")
    with monkeypatch.context() as patch:
        made = counted(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            run_stage("fid", "G")
    assert not (folder / "reports/fid/G-0.csv").exists()
    with monkeypatch.context() as patch:
        again = counted(patch)
        run_stage("fid", "G")
    assert again[0] == made[-1]
    assert len(set(made + again)) == len(made) - 1 + len(again) == 4
    assert sorted(seed for _, seed in {*made, *again}) == [0, 0, 0, 300]
    assert (folder / "reports/fid/G-0.csv").read_text() == (
        finished / "reports/fid/G-0.csv"
    ).read_text()
    pictures = [
        sorted(p.name for p in (f / "reports/samples/G-0").glob("*.png"))
        for f in (folder, finished)
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 3


def test_times_of_traditional_averages_are_those_of_their_snapshots(project):
    """Each is copied; a time between two snapshots is refused with the times that there are."""
    folder = project(ema__halflife_nimg=32, sweep__nimg=[512, 1024])
    for stage in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema"):
        run_stage(stage, "A")
    listed = read_manifest(folder / "models/sweep/A-0")["networks"]
    assert [(n["nimg"], n["tensors"], n["average"]) for n in listed] == [
        (512, "all", "traditional"),
        (1024, "all", "traditional"),
    ]
    path, changes = folder / "params.yaml", {**TINY, "ema.halflife_nimg": 32}
    files = [folder / "models/sweep/A-0" / network["file"] for network in listed]
    copies = [load_file(file) for file in files]
    write_params(path, {**changes, "sweep.nimg": [512, 1024], "sweep.materialize": False})
    run_stage("sweep_ema", "A")
    assert read_manifest(folder / "models/sweep/A-0")["networks"] == listed
    for file, copy in zip(files, copies, strict=True):
        assert not file.exists()
        made = NetworkReader().read(file)
        assert made.keys() == copy.keys()
        assert all(torch.equal(made[name], tensor) for name, tensor in copy.items())
    write_params(path, {**changes, "sweep.nimg": [640]})
    with pytest.raises(UserError, match=r"sweep.nimg: 640.*multiples of ema.snapshot_nimg \(256\)"):
        run_stage("sweep_ema", "A")
