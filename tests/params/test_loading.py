"""params.yaml and the model; errors of wrong files."""

import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny import ROOT

from edm2.params import Params, ParamsError, UserError, load
from edm2.params.loading import check_tree, fields

TEXT = (ROOT / "params.yaml").read_text()


def keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    """All key paths, of sections and of fields."""
    paths = {prefix + key for key in tree}
    for key, value in tree.items():
        if isinstance(value, dict):
            paths |= keys(value, f"{prefix}{key}.")
    return paths


def test_params_yaml_lists_exactly_the_fields_of_the_model():
    tree = YAML(typ="safe").load(TEXT)
    tree["diffusion"]["per_config"] = None  # any fields of `diffusion`
    assert keys(tree) == {key for key, _ in fields(Params)}


def test_every_field_is_described():
    assert [key for key, description in fields(Params) if len(description) < 5] == []


def test_load_gives_the_values_of_the_file():
    params = load(ROOT / "params.yaml")
    assert params.dataset.source == "digits"
    assert params.sweep.ema_lengths[0] == 0.02
    assert params.sweep.ema_lengths[-1] == 0.24
    assert len(params.sweep.ema_lengths) == 12


@pytest.mark.parametrize(
    ("key", "value", "choices"),
    [
        ("configs.0", "H", "ABCDEFG"),
        ("dataset.source", "cifar", ("digits", "photos", "folder")),
        ("codec.kind", "vqgan", ("trained", "stable_diffusion", "rgb")),
        ("sampling.solver", "dpm", ("heun", "euler")),
        ("evaluation.detector", "clip", ("classifier", "inception", "dinov2")),
        ("evaluation.metrics.0", "fid", ("fd", "kid", "precision", "recall", "is")),
        ("diffusion.overrides.backbone", "vit", ("unet",)),
        ("diffusion.overrides.objective", "flow", ("edm",)),
        ("runtime.precision", "fp64", ("auto", "fp32", "bf16", "fp16")),
    ],
)
def test_an_unknown_name_is_refused_with_the_choices(only_problem, key, value, choices):
    field, _, item = key.rpartition(".0")
    problem = only_problem({field or key: [value] if field and not item else value})
    assert (problem.key, problem.value) == (key, value)
    assert all(f"'{choice}'" in problem.allowed for choice in choices)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vae.seed", "zero"),
        ("vae.seed", True),
        ("vae.batch", "64"),
        ("vae.variance", "leaned"),
        ("vae.variance", -0.1),
        ("sweep.ema_lengths", "0.02 to 0.2"),
        ("sweep.ema_lengths", "0.1...0.2 by 1e-400"),
        ("sweep.tensors", "*-affine"),
        ("sweep.nimg", 5120),
        ("runtime.device", "gpu"),
    ],
)
def test_a_wrong_type_or_form_is_one_problem_with_the_description_of_the_field(
    only_problem, key, value
):
    problem = only_problem({key: value})
    assert (problem.key, problem.value) == (key, value)
    assert dict(fields(Params))[key] in problem.allowed


@pytest.mark.parametrize("key", ["ema.ema_lengths", "sweep.ema_lengths"])
def test_an_impossible_ema_length_is_refused_with_usual_ones(only_problem, key):
    problem = only_problem({key: [0.05, 0.29]})
    assert (problem.key, problem.value) == (f"{key}.1", 0.29)
    assert "0.05 to 0.25" in problem.fix


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"diffusion.per_config": {"C": {"lr_ref": -1.0}}}, "diffusion.per_config.C.lr_ref", -1.0),
        ({"diffusion.per_config": {"C": None}}, "diffusion.per_config.C", None),
        ({"guidance.changes": {"channels": "4"}}, "guidance.changes.channels", "4"),
    ],
)
def test_problems_of_changes_have_the_key_of_the_change(only_problem, changes, key, value):
    problem = only_problem(changes)
    assert (problem.key, problem.value) == (key, value)


@pytest.mark.parametrize(
    ("changes", "key", "known"),
    [
        (("  lr_ref:", "  lr_reff:"), "diffusion.lr_reff", "lr_ref"),
        (("  bias: null", "  biass: true"), "diffusion.overrides.biass", "bias"),
        (("A: {lr_ref", "A: {lr_reff"), "diffusion.per_config.A.lr_reff", "lr_ref"),
        (("changes: {}", "changes: {lr: 1.0}"), "guidance.changes.lr", "lr_ref"),
        (("  search: null", "  search: {tolerence: 0.01}"), "sweep.search.tolerence", "tolerance"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones(tmp_path, changes, key, known):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(*changes))
    with pytest.raises(ParamsError) as error:
        load(path)
    (unknown,) = (p for p in error.value.problems if p.key == key)
    assert known in unknown.allowed
    if key != "guidance.changes.lr":  # no known key is similar
        assert f"Did you mean {known}?" in unknown.fix


def test_missing_keys_with_and_without_a_default_and_wrong_values_are_named_together(tmp_path):
    """`Vae` has defaults, for use as a library; a file must list all."""
    tree = YAML(typ="safe").load(TEXT)
    del tree["vae"]["losses"]["mse"], tree["vae"]["lr"], tree["dataset"]["seed"]
    tree["vae"]["channels"] = -1
    with pytest.raises(ParamsError) as error:
        check_tree(tree, tmp_path / "params.yaml")
    problems = {problem.key: problem for problem in error.value.problems}
    assert set(problems) == {"vae.losses.mse", "vae.lr", "dataset.seed", "vae.channels"}
    assert problems["vae.lr"].value is None
    assert "Add the key" in problems["vae.lr"].fix
    del tree["vae"]["equivariance"], tree["vae"]["channels"]
    tree["vae"]["chanels"] = 32  # the misspelled key is not missing as well
    with pytest.raises(ParamsError) as error:
        check_tree(tree, tmp_path / "params.yaml")
    missing = {"vae.losses.mse", "vae.lr", "dataset.seed", "vae.equivariance"}
    assert {problem.key for problem in error.value.problems} == {*missing, "vae.chanels"}


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("  rho: 7\n", ""))
    with pytest.raises(ParamsError) as error:
        load(path)
    assert [problem.key for problem in error.value.problems] == ["sampling.rho"]


def test_all_problems_are_listed_at_once(problems):
    keys = {problem.key for problem in problems({"vae.seed": "x", "vae.lr": "y", "launch": 1})}
    assert keys == {"vae.seed", "vae.lr", "launch"}


def test_the_message_has_file_key_value_expectation_and_fix(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("  batch: 64", "  batch: 66"))
    with pytest.raises(UserError) as error:
        load(path)
    message, (problem, *_) = str(error.value), error.value.problems
    assert str(path) in message
    for text in (problem.key, repr(problem.value), problem.allowed, problem.fix):
        assert text in message


@pytest.mark.parametrize("text", ["a: [1", "- 1", "", "3"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace("lr_input: 0.0001", "lr_input: 1e-4"))
    assert load(path).vae.lr_input == 1e-4


def test_the_entry_of_a_config_is_merged_into_the_common_values(params):
    """Key by key; entries of other configs have no effect."""
    tree = params(
        {
            "diffusion.lr_ref": 0.02,
            "diffusion.overrides.bias": True,
            "diffusion.per_config": {
                "A": {"lr_ref": 0.5, "overrides": {"pixel_norm": True}},
                "B": {"channel_mult": [3], "size": None},
            },
        }
    )
    a, b, g = (tree.of(config).diffusion for config in "ABG")
    assert (a.lr_ref, a.channel_mult, b.lr_ref, b.channel_mult) == (0.5, (1, 2), 0.02, (3,))
    assert (a.overrides.bias, a.overrides.pixel_norm, a.overrides.attention) == (True, True, None)
    assert g == tree.diffusion.model_copy(update={"per_config": {}})


@pytest.mark.parametrize("times", ["20480...102400 by 40960", [20480, 61440, 102400]])
def test_times_of_a_sweep_are_integers(params, times):
    nimg = params({"sweep.nimg": times}).sweep.nimg
    assert nimg == (20480, 61440, 102400)
    assert {type(time) for time in nimg} == {int}


def test_params_are_checked_before_torch_is_imported():
    code = (
        "import sys, edm2.params as p; p.load('params.yaml'); import edm2.pipeline.runner; "
        "import stages.train_diffusion; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


@pytest.mark.parametrize("size", ["", "two", "0", "-1"])
def test_a_wrong_number_of_processes_is_told(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UserError, match="WORLD_SIZE.*expected the number of processes"):
        load(ROOT / "params.yaml")
