"""dvc.yaml declares what stages import, read and write."""

import os
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML
from tiny import PER_CONFIG, REPLICATE, ROOT, STAGES, write_params

from edm2.params import UserError, load
from edm2.params.replicates import Replicate
from edm2.pipeline.declaration import (
    has_matrix,
    read_declaration,
    replicate_from_dvc,
    with_stages_before,
)

# runs a stage without effect on its results
FRAMEWORK = (
    "edm2.params",
    "edm2.pipeline",
    "edm2.pipeline.runner",
    "edm2.pipeline.declaration",
    "edm2.pipeline.launcher",
    "edm2.pipeline.publication",
    "edm2.pipeline.paths",
    "edm2.pipeline.hidden_values",
    "edm2.pipeline.git",
    "edm2.pipeline.changed_params",
    "edm2.pipeline.run_description",
    "edm2.pipeline.run_datasets",
    "stages",
)
RUNTIME_DEPS = (  # modules of edm2.runtime with an effect on results
    "edm2.runtime.gradients",
    "edm2.runtime.loop",
    "edm2.runtime.metrics",
    "edm2.runtime.noise",
    "edm2.runtime.randomness",
    "edm2.runtime.schedule",
)


@pytest.fixture(scope="module")
def graph():
    """The imports of all modules, without those for what is only logged."""
    graph = grimp.build_graph("edm2", "stages", cache_dir=None)
    graph.remove_module("edm2.pipeline.best_model")
    return graph


def declared(name):
    return read_declaration(name, REPLICATE if name in PER_CONFIG else None, ROOT / "dvc.yaml")


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_code_with_an_effect_on_results(graph, name):
    """Every module that a stage imports, directly or not, is in a dep, and no dep is superfluous."""
    imported = graph.find_upstream_modules(f"stages.{name}") | {f"stages.{name}"}
    code = {
        module
        for module in imported
        if module not in ("edm2", *FRAMEWORK)
        and not module.startswith("edm2.params")
        and (not module.startswith("edm2.runtime") or module in RUNTIME_DEPS)
    }
    deps = [
        path.with_suffix("").as_posix().replace("/", ".")
        for path in declared(name).deps
        if path.parts[0] in ("edm2", "stages")
    ]
    missing = {m for m in code if not any(m == d or m.startswith(f"{d}.") for d in deps)}
    superfluous = [d for d in deps if not any(m == d or m.startswith(f"{d}.") for m in code)]
    assert missing - {"edm2.reporting", "edm2.metrics"} == set()
    assert superfluous == []


@pytest.mark.parametrize("name", STAGES)
def test_params_exist(name):
    values = declared(name).values(load(ROOT / "params.yaml"))
    assert len(values) == len(declared(name).params)


def test_all_inputs_are_outs_of_earlier_stages():
    outs: set[Path] = set()
    for name in STAGES:
        for path in (p for p in declared(name).deps if p.parts[0] in ("data", "models", "reports")):
            made = any(path in (out, *out.parents) or out in path.parents for out in outs)
            assert made, (name, path)
        outs |= set(declared(name).outs)


def test_stages_before_a_stage_are_those_whose_results_it_depends_on():
    def before(name):
        stages = {read_declaration(s, "*", ROOT / "dvc.yaml").outs: s for s in STAGES}
        return {stages[each.outs] for each in with_stages_before(name, ROOT / "dvc.yaml")}

    assert before("prepare") == {"prepare"}
    # the features of real images are not needed to train
    training = {"prepare", "train_features", "train_vae", "encode_latents", "train_diffusion"}
    assert before("train_diffusion") == training
    assert before("fid") == set(STAGES) - {"baselines", "report"}


def test_every_stage_has_a_file():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert tuple(stages) == STAGES
    assert all((ROOT / "stages" / f"{name}.py").exists() for name in stages)
    assert tuple(name for name in stages if has_matrix(name, ROOT / "dvc.yaml")) == PER_CONFIG


def test_no_value_of_params_reaches_a_shell(tmp_path, monkeypatch):
    """In the commands and names of stages that DVC itself makes from dvc.yaml."""
    from dvc.parsing import DataResolver
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    configs = ["G", "G; touch X #", "$(touch X)", "`touch X`", "a\nb", 'it\'s "q"', "${launch}"]
    changes = {
        "configs": configs,
        "seeds": [0, 12],
        "launch": "srun python",
        "ema.path": "; touch X",
    }
    write_params(tmp_path / "params.yaml", changes)
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")
    repo = Repo.init(no_scm=True)
    resolved = DataResolver(repo, "", stages).resolve()["stages"]
    expected = {
        f"{name}@{config}-{seed}" for name in PER_CONFIG for config in configs for seed in (0, 12)
    }
    assert resolved.keys() == expected | set(STAGES) - set(PER_CONFIG)
    for stage, declaration in resolved.items():
        assert declaration["cmd"] == f"python -m stages.{stage.partition('@')[0]}"


def test_another_launcher_runs_no_stage_again():
    """Neither the commands nor the tracked params of dvc.yaml have it."""
    text = (ROOT / "dvc.yaml").read_text()
    assert "${launch" not in text
    assert not any("launch" in declared(name).params for name in STAGES)


@pytest.mark.parametrize("folder", ["", "../dvc.yaml:", "../fid@x/dvc.yaml:"])
@pytest.mark.parametrize("training", ["G-0", "G; touch X #-0", "a@b-12", ""])
def test_a_stage_finds_the_training_that_dvc_runs_it_for(monkeypatch, folder, training):
    monkeypatch.setenv("DVC_STAGE", f"{folder}fid@{training}")
    assert replicate_from_dvc("fid") == training
    assert replicate_from_dvc("train_guide") == ""
    monkeypatch.delenv("DVC_STAGE")
    assert replicate_from_dvc("fid") == ""


def test_a_folder_without_dvc_yaml_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"dvc.yaml: .*{tmp_path}"):
        read_declaration("prepare", None)


def test_in_a_folder_below_the_root_the_root_is_named(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "docs/guides").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "docs/guides")
    with pytest.raises(UserError, match=f"cd {tmp_path}\\."):
        read_declaration("prepare", None)


@pytest.mark.parametrize("text", ["", "stages: {}\n", "stages: [prepare]\n", "- a\n", "a: [\n"])
def test_a_dvc_yaml_without_the_stage_is_refused(tmp_path, text):
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        read_declaration("prepare", None, tmp_path / "dvc.yaml")


@pytest.mark.parametrize("config", ["../docs", "../../docs", "G/../../../docs", "../../../outside"])
def test_dvc_refuses_configs_that_leave_their_folder(config):
    """Two stages have the same out then, which `dvc repro` refuses before it removes anything."""
    outs = [
        os.path.normpath(read_declaration(name, Replicate(config, 0), ROOT / "dvc.yaml").outs[0])
        for name in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema")
    ]
    assert len(set(outs)) == 1
