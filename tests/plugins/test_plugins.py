"""One plug-in per seam, from files outside the package, in a run of the whole pipeline."""

import json
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import ROOT, STAGES, TINY, make_project, run_stage, write_params

from edm2.cli import main
from edm2.params import ParamsError, load
from edm2.params.configs import CONFIGS
from edm2.params.seams import (
    BACKBONES,
    CODECS,
    DETECTORS,
    METRICS,
    OBJECTIVES,
    SAMPLERS,
    SOURCES,
)
from edm2.runtime.manifest import load_manifest

PLUGINS = sorted((ROOT / "examples/plugins").glob("*.py"))
MEMBERS = {
    "config": (CONFIGS, "H"),
    "backbone": (BACKBONES, "flat"),
    "objective": (OBJECTIVES, "laplace"),
    "sampler": (SAMPLERS, "dpm_2m"),
    "source": (SOURCES, "npz"),
    "codec": (CODECS, "halved"),
    "detector": (DETECTORS, "thumbnail"),
    "metric": (METRICS, "coverage"),
}
CHANGES = {
    **TINY,
    "plugins": [f"plugins/{path.name}" for path in PLUGINS],
    "configs": ["H"],
    "dataset.source": "npz",
    "dataset.path": "images.npz",
    "codec.kind": "halved",
    "diffusion.overrides.backbone": "flat",
    "diffusion.overrides.objective": "laplace",
    "sampling.solver": "dpm_2m",
    "evaluation.detector": "thumbnail",
    "evaluation.metrics": ["fd", "coverage"],
}


@pytest.fixture(autouse=True)
def remove_plugins():
    """Plug-ins are registered for the whole process; other tests must not use them."""
    yield
    for path in PLUGINS:
        sys.modules.pop(f"edm2_plugin_{path.stem}", None)
    for registry, name in MEMBERS.values():
        if name in registry:
            registry.remove(name)


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """A project that uses a plug-in for every seam; its config is not in the paper."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.repeat((digits.images * 15.9).astype(np.uint8)[..., None], 3, axis=-1)
    folder = make_project(tmp_path / "project", CHANGES)
    np.savez(folder / "images.npz", images=images, labels=digits.target)
    (folder / "plugins").symlink_to(ROOT / "examples/plugins")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return folder


def test_there_is_an_example_for_every_seam():
    assert {path.stem for path in PLUGINS} == MEMBERS.keys()


@pytest.mark.slow
def test_the_pipeline_runs_from_images_to_report_with_a_plugin_for_every_seam(extended):
    per_config = ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema", "fid")
    for name in STAGES:
        run_stage(name, "H" if name in per_config else "")
    assert load_manifest(extended / "data/images")["source"] == "npz"
    assert load_manifest(extended / "models/vae")["kind"] == "halved"
    names = load_manifest(extended / "models/diffusion/H-0")["files"]
    assert "network.safetensors" in names
    table = pd.read_csv(extended / "reports/fid/H-0.csv")
    assert {"fd_thumbnail_300", "coverage_thumbnail_300"} <= set(table["metric"])
    assert np.isfinite(table["value"]).all()
    assert "H" in pd.read_csv(extended / "reports/ablation.csv")["config"].tolist()
    metrics = json.loads((extended / "reports/metrics.json").read_text())
    best = metrics["H/best/ema_length"]
    sweep = table[(table["ema_length"] == best) & (table["seeds"] == "fresh")]
    values = sweep.set_index("metric")["value"]
    assert metrics["H/best/fd_thumbnail_300"] == values["fd_thumbnail_300"]
    assert metrics["H/best/coverage_thumbnail_300"] == values["coverage_thumbnail_300"]
    page = (extended / "reports/index.html").read_text()
    assert "coverage_thumbnail_300" in page
    training = pd.read_csv(extended / "reports/training/H-0.csv")
    assert "weights_mean/blocks" in training


def test_a_name_is_unknown_without_its_plugin(extended):
    write_params(extended / "params.yaml", {**CHANGES, "plugins": []})
    with pytest.raises(ParamsError) as error:
        load("params.yaml")
    values = {problem.key: problem.value for problem in error.value.problems}
    assert values["configs.0"] == "H"
    assert values["dataset.source"] == "npz"
    assert values["codec.kind"] == "halved"
    assert values["sampling.solver"] == "dpm_2m"
    assert values["evaluation.detector"] == "thumbnail"
    assert values["evaluation.metrics.1"] == "coverage"
    assert values["diffusion.overrides.backbone"] == "flat"
    assert values["diffusion.overrides.objective"] == "laplace"


@pytest.mark.parametrize("content", ["import nothing_of_this_name", "1 +", None])
def test_a_plugin_that_cannot_be_imported_is_a_problem_of_the_params(extended, content):
    if content is not None:
        (extended / "plugin.py").write_text(content)
    write_params(extended / "params.yaml", {**TINY, "plugins": ["plugin.py"]})
    with pytest.raises(ParamsError) as error:
        load("params.yaml")
    (problem,) = error.value.problems
    assert (problem.key, problem.value) == ("plugins", "plugin.py")


def test_a_name_cannot_be_registered_twice(extended):
    load("params.yaml")
    with pytest.raises(ValueError, match="heun"):
        SAMPLERS.register("heun", None)


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "G; touch X", "-x", "a b", "a\n"])
def test_a_name_that_cannot_be_part_of_a_file_name_is_refused(name):
    with pytest.raises(ValueError, match="expected a name of letters"):
        CONFIGS.register(name, CONFIGS["G"])
    assert name not in CONFIGS


@pytest.mark.slow
def test_a_changed_plugin_file_starts_a_new_state(extended, monkeypatch):
    (extended / "plugin.py").write_text("")
    write_params(extended / "params.yaml", {**TINY, "plugins": ["plugin.py"]})
    run_stage("prepare")
    (extended / "plugin.py").write_text("# changed")
    run_stage("prepare")
    assert len(list((extended / ".state/prepare").glob("*[0-9a-f]"))) == 2


def test_the_example_sampler_solves_a_gaussian():
    """For data N(0, 0.5²) the ODE has the solution x·0.5/√(σ²+0.25)."""
    sampler = runpy.run_path(str(ROOT / "examples/plugins/sampler.py"))["dpm_2m"]
    noise = torch.randn(4, 1, 2, 2, dtype=torch.float64)

    def denoise(x, sigma):
        return x * 0.25 / (sigma.square() + 0.25)[:, None, None, None]

    samples = sampler(denoise, noise, 200, 0.002, 80.0, 7.0, dtype=torch.float64)
    exact = noise * 80.0 * 0.5 / (80.0**2 + 0.25) ** 0.5
    torch.testing.assert_close(samples.double(), exact, rtol=2e-3, atol=1e-4)


def test_the_example_objective_keeps_mean_and_standard_deviation():
    objective_class = runpy.run_path(str(ROOT / "examples/plugins/objective.py"))[
        "LaplaceObjective"
    ]
    normals = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    values = objective_class(CONFIGS["G"]).ln_sigma(normals.double())
    config = CONFIGS["G"]
    assert float(values.mean()) == pytest.approx(config.p_mean, abs=0.02)
    assert float(values.std()) == pytest.approx(config.p_std, rel=0.02)
    kurtosis = float(((values - values.mean()) / values.std()).pow(4).mean())
    assert kurtosis == pytest.approx(6, rel=0.15)  # a normal distribution has 3


@pytest.mark.slow
def test_the_summary_knows_the_configs_of_plugins(extended, capsys):
    with pytest.raises(SystemExit) as end:
        main(["model", "summary", "H", "--channels", "16"])
    assert not end.value.code
    assert "embedding_layers = 2" in capsys.readouterr().out
