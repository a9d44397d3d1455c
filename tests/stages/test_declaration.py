"""dvc.yaml against the stages."""

from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML
from tiny import PER_CONFIG, ROOT, STAGES

from edm2.params import UserError, load
from edm2.pipeline.declaration import has_matrix, read_declaration

# what runs a stage and shapes no result
FRAME = (
    "edm2.params",
    "edm2.pipeline",
    "edm2.pipeline.runner",
    "edm2.pipeline.declaration",
    "edm2.pipeline.publication",
    "edm2.pipeline.paths",
    "edm2.pipeline.hidden_values",
    "stages",
)
RESULTS_OF_RUNTIME = (
    "edm2.runtime.gradients",
    "edm2.runtime.loop",
    "edm2.runtime.randomness",
    "edm2.runtime.schedule",
)


@pytest.fixture(scope="module")
def graph():
    """Of imports."""
    return grimp.build_graph("edm2", "stages")


def declared(name):
    return read_declaration(name, "G" if name in PER_CONFIG else None, ROOT / "dvc.yaml")


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_code_that_shapes_the_result(graph, name):
    """Every module that a stage imports, directly or not, lies in a dep; and no dep is idle."""
    imported = graph.find_upstream_modules(f"stages.{name}") | {f"stages.{name}"}
    shaping = {
        module
        for module in imported
        if module not in FRAME
        and not module.startswith("edm2.params")
        and (not module.startswith("edm2.runtime") or module in RESULTS_OF_RUNTIME)
    }
    deps = [
        path.with_suffix("").as_posix().replace("/", ".")
        for path in declared(name).deps
        if path.parts[0] in ("edm2", "stages")
    ]
    code = {module for module in shaping if module not in ("edm2",)}
    missed = {m for m in code if not any(m == d or m.startswith(f"{d}.") for d in deps)}
    idle = [d for d in deps if not any(m == d or m.startswith(f"{d}.") for m in code)]
    assert missed - {"edm2.reporting", "edm2.metrics"} == set()
    assert idle == []


@pytest.mark.parametrize("name", STAGES)
def test_params_exist(name):
    values = declared(name).values(load(ROOT / "params.yaml"))
    assert len(values) == len(declared(name).params)


def test_all_inputs_are_outs_of_earlier_stages():
    made: set[Path] = set()
    for name in STAGES:
        for path in (p for p in declared(name).deps if p.parts[0] in ("data", "models", "reports")):
            assert any(out == path or path in out.parents for out in made), (name, path)
        made |= set(declared(name).outs)


def test_stages_of_dvc_yaml_are_the_files_of_the_folder():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert tuple(stages) == STAGES
    assert all((ROOT / "stages" / f"{name}.py").exists() for name in stages)
    assert tuple(name for name in stages if has_matrix(name, ROOT / "dvc.yaml")) == PER_CONFIG


def test_a_stage_outside_of_a_project_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Run stages in the project's root"):
        read_declaration("prepare", None)
