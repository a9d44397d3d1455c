"""The way out of each problem fits the mistake: the value that was meant, the key that was meant."""

import re
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError
from tiny import ROOT, default_params

from edm2.params import Params
from edm2.params.errors import Problem
from edm2.params.explanation import Explainer
from edm2.params.loading import fields
from edm2.params.remedies import as_yaml, numbers
from edm2.params.renamed import RENAMED
from edm2.params.yaml_file import parse_yaml

DESCRIPTIONS = dict(fields(Params))


def changed(key: str, value: Any) -> dict[str, Any]:
    """The default params with one value set, whether there is such a key or not."""
    tree = default_params()
    *sections, name = key.split(".")
    node = tree
    for section in sections:
        node = node[section]
    node[name] = value
    return tree


def problems_of(tree: Any) -> list[Problem]:
    with pytest.raises(ValidationError) as error:
        Params.model_validate(tree)
    return Explainer(Params, tree, "", DESCRIPTIONS).problems(error.value)


def problem_of(tree: Any) -> Problem:
    (problem,) = problems_of(tree)
    return problem


@pytest.mark.parametrize(
    ("key", "value", "allowed", "fix"),
    [
        ("tracking.mlflow", "no", "true or false", "Write false."),
        ("tracking.mlflow", "off", "true or false", "Write false."),
        ("tracking.mlflow", "Yes", "true or false", "Write true."),
        ("tracking.mlflow", "false", "true or false", "Write false, without quotes."),
        ("tracking.mlflow", 1, "true or false", "Write true."),
        ("tracking.mlflow", None, "true or false", "Write true or false."),
        ("diffusion.overrides.bias", "on", "true or false", "Write true."),
        ("diffusion.duration_nimg", 1e6, "a whole number", "Write 1000000."),
        ("diffusion.duration_nimg", "1e6", "a whole number", "Write 1000000."),
        ("diffusion.duration_nimg", "10k", "a whole number", "Write 10000."),
        ("diffusion.duration_nimg", "1,000", "a whole number", "Write 1000."),
        ("diffusion.duration_nimg", "0x10", "a whole number", "Write 16."),
        ("diffusion.duration_nimg", "2**17", "a whole number", "Write 131072."),
        ("diffusion.duration_nimg", "64", "a whole number", "Write 64, without quotes."),
        ("diffusion.duration_nimg", [64], "a whole number", "Write 64."),
        ("diffusion.duration_nimg", 1.5, "a whole number", "Write a whole number"),
        ("diffusion.duration_nimg", "-10k", "a whole number", "Write a whole number"),
        ("runtime.checkpoint_seconds", "1m", "a finite number", "Write 60."),
        ("runtime.checkpoint_seconds", "1.5 hours", "a finite number", "Write 5400."),
        ("runtime.checkpoint_seconds", "20", "a finite number", "Write 20, without quotes."),
        ("runtime.checkpoint_seconds", "2 weeks", "a finite number", "Write a number"),
        ("diffusion.lr_ref", "5%", "a finite number", "Write 0.05."),
        ("diffusion.lr_ref", "0,04", "a finite number", "Write 0.04."),
        ("diffusion.lr_ref", "1/25", "a finite number", "Write 0.04."),
        ("diffusion.lr_ref", "None", "a finite number", "Write null."),
        ("runtime.nonfinite_patience", "never", "a whole number", "Write null."),
        ("diffusion.lr_ref", float("nan"), "a finite number", "Write a number"),
        ("diffusion.lr_ref", True, "a finite number", "Write a number"),
        ("configs", "G", "a list", "Write [G]."),
        ("configs", "G, A", "a list", "Write [G, A]."),
        ("configs", "A B", "a list", "Write [A, B]."),
        ("configs", "[G]", "a list", "Write [G], without quotes."),
        ("configs", "H", "a list", "Write a list in brackets"),
        ("configs", [], "1 or more values", "Add values."),
        ("plugins", None, "a list", "Write []."),
        ("plugins", "a.py", "a list", "Write [a.py]."),
        ("sweep.ema_lengths", 0.1, "a list", "Write [0.1]."),
        ("sweep.ema_lengths", "0.1, 0.2", "a list, or a range", "Write [0.1, 0.2]."),
        ("sweep.ema_lengths", "10%", "a list, or a range", "Write [0.1]."),
        ("sweep.ema_lengths", "0.02:0.2:0.02", "a list, or a range", "Write 0.02...0.2 by 0.02."),
        ("sweep.ema_lengths", "0.1..0.2 by 0.1", "a list, or a range", "Write 0.1...0.2 by 0.1."),
        ("sweep.tensors", "*-affine", "a list", 'Write ["*-affine"].'),
        ("diffusion.channel_mult", "(1, 2)", "a list", "Write [1, 2]."),
        ("guidance.interval", [0.3, 5.0, 6.0], "at most 2 values", "Remove"),
        ("guidance.interval", [0.3], "position 2", "Add it"),
        ("runtime.device", "gpu", "'cuda'", "Did you mean cuda?"),
        ("runtime.device", "CUDA", "'cuda'", "Did you mean cuda?"),
        ("runtime.device", "cuda1", "'cuda:N'", 'Did you mean "cuda:1"?'),
        ("runtime.device", 0, "'cuda:N'", 'Did you mean "cuda:0"?'),
        ("runtime.device", "tpu", "'cpu'", "Choose one of these."),
        ("runtime.precision", "float16", "'fp16'", "Did you mean fp16?"),
        ("runtime.precision", 16, "'fp16'", "Did you mean fp16?"),
        ("sampling.dtype", "fp32", "'float32'", "Did you mean float32?"),
        ("diffusion.size", "s", "'S'", "Did you mean S?"),
        ("diffusion.size", "edm2-xs", "'XS'", "Did you mean XS?"),
        ("diffusion.overrides.attention", "cosin", "'cosine'", "Did you mean cosine?"),
        ("evaluation.detector", "inceptionv3", "'inception'", "Did you mean inception?"),
        ("guidance.guide", "unlabelled", "'unlabeled'", "Did you mean unlabeled?"),
        ("guidance.guide", None, "'none'", "Did you mean none?"),
        ("vae.variance", "leaned", "'learned'", "Did you mean learned?"),
        ("vae.images.shards", ["a.tar", "b.tar"], "text", 'Write "{a.tar,b.tar}".'),
        ("dataset.path", 3, "text", 'Write "3".'),
        ("tracking.experiment", "", "not empty", "Write a text."),
        ("tracking.experiment", date(2026, 11, 27), "text", 'Write "2026-11-27".'),
        ("tracking.experiment", True, "text", 'Write "true".'),
        ("dataset.path", "", "not empty", "Write null."),
        ("dataset", "digits", "source, path", "Write its keys below it"),
        ("diffusion.per_config", None, "keys with values", "Write {}."),
        ("vae.seed", -1, "from 0 to 4,294,967,295", "Choose a value in this range."),
    ],
)
def test_the_fix_fits_the_value(key, value, allowed, fix):
    problem = problem_of(changed(key, value))
    assert problem.key == key
    assert problem.value is value
    assert allowed in problem.allowed
    assert problem.fix.startswith(fix)


def test_a_value_inside_of_what_a_text_stands_for_is_named():
    problem = problem_of(changed("launch", "x" * 20_000))
    assert problem.key == "launch.default"
    assert "at most" in problem.allowed


@pytest.mark.parametrize(
    ("configs", "key", "fix"),
    [
        (["H"], "configs.0", "Choose one of these; a plug-in can add others."),
        (["G", "a"], "configs.1", "Did you mean A?"),
        (["config-F"], "configs.0", "Did you mean F?"),
        ([["G"]], "configs.0", "Write G."),
    ],
)
def test_the_fix_fits_an_item_of_a_list(configs, key, fix):
    problem = problem_of(changed("configs", configs))
    assert (problem.key, problem.fix) == (key, fix)


def test_a_misspelled_config_of_per_config_is_guessed():
    problem = problem_of(changed("diffusion.per_config", {"g": {"lr_ref": 1.0}}))
    assert (problem.key, problem.value) == ("diffusion.per_config.g", "g")
    assert problem.fix == "Did you mean G?"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sampling.solvers", "solver"),
        ("sampling.Rho", "rho"),
        ("lr_ref", "diffusion.lr_ref"),
        ("sampling.mlflow", "tracking.mlflow"),
        ("sampling.mlflwo", "tracking.mlflow"),
        ("batch", "features.batch or vae.batch or diffusion.batch or sampling.batch"),
    ],
)
def test_the_key_that_was_meant_is_named(key, meant):
    problem = problem_of(changed(key, 1))
    assert (problem.key, problem.value) == (key, 1)
    assert f"Did you mean {meant}?" in problem.fix


def test_a_key_with_dots_belongs_into_its_section():
    problem = problem_of({**default_params(), "diffusion.lr_ref": 1.0})
    assert "Did you mean diffusion.lr_ref? Move it there" in problem.fix


def test_a_key_like_no_other_is_to_be_removed():
    assert problem_of(changed("qqq", 1)).fix == "Remove it."


def test_a_misspelled_key_is_one_problem_and_not_missing_as_well():
    tree = changed("sampling.Rho", 7)
    del tree["sampling"]["rho"]
    assert problem_of(tree).key == "sampling.Rho"


def test_keys_must_be_text():
    problem = problem_of({**default_params(), 3: 4})
    assert problem.key == "3"
    assert "quotes" in problem.fix


@pytest.mark.parametrize("tree", [None, 3, "text", ["a"]])
def test_a_file_without_keys_is_one_problem(tree):
    problem = problem_of(tree)
    assert (problem.key, problem.value, problem.allowed) == ("the file", tree, "sections with keys")


@pytest.mark.parametrize("key", RENAMED)
def test_old_names_are_told_with_the_new_ones(key):
    problem = problem_of(changed(key, 1))
    assert RENAMED[key] in problem.fix


def test_renamed_keys_are_those_of_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text().partition("\nParams:\n")[2].partition("\n\nComm")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", text, re.MULTILINE)
    assert len(rows) >= 10
    assert dict(rows) == RENAMED
    assert set(RENAMED.values()) <= DESCRIPTIONS.keys()


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, "1" * 4000, "1," * 5000, 10**400, ["a"] * 10_000],
    ids=str.split("text digits numbers int list"),
)
def test_values_of_any_size_are_explained(value):
    assert problem_of(changed("dataset.held_out", value)).key == "dataset.held_out"


def test_long_values_are_cut_in_messages():
    assert len(str(problem_of(changed("vae.seed", "x" * 10_000)))) < 500


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1_000", 1000),
        ("1'000'000", 1_000_000),
        ("2.5M", 2_500_000),
        ("50 million", 50_000_000),
        ("10^-3", 0.001),
        ("7%", 0.07),
        ("−3", -3),
        ("1e400", None),
        ("9**9999", None),
        ("1/0", None),
        ("1.2.3", None),
        ("x", None),
        ("", None),
        (True, None),
        (float("inf"), None),
        (float("nan"), None),
        (10**400, None),
    ],
)
def test_numbers_in_other_notations(text, number):
    assert next(numbers(text), None) == number


@pytest.mark.parametrize(
    "value",
    [True, None, 3, 0.1, 1e-7, "cuda", "true", "3", "*-affine", "a b", [1, "x"], [], "null"],
)
def test_values_are_written_as_yaml(value):
    assert parse_yaml(f"key: {as_yaml(value)}", "text") == {"key": value}
