"""`edm2 params`."""

import pytest
from tiny import write_params

from edm2.params import Params
from edm2.params.loading import fields
from edm2.params.presets import PRESETS, preset_text

KEYS = [key for key, _ in fields(Params)]


def described_keys(out):
    """Keys of the printed fields and sections, in order."""
    starts = (line.strip().split(" = ")[0].split(": ")[0] for line in out.splitlines())
    return [start for start in starts if start in KEYS]


def test_check_accepts_the_params_of_the_project(empty_project, run):
    folder = empty_project({})
    result = run("params", "check")
    assert (result.status, result.err) == (0, "")
    assert str(folder / "params.yaml") in result.out


def test_check_lists_all_wrong_values_at_once(empty_project, run):
    empty_project({"vae.seed": "x", "sampling.steps": 0, "vae.losses": {"nonsense": 1}})
    result = run("params", "check")
    assert (result.status, result.out) == (2, "")
    for part in ("seed: 'x'", "sampling.steps: 0", "vae.losses.nonsense: 1"):
        assert part in result.err
    assert "Traceback" not in result.err


def test_check_lists_all_impossible_combinations_at_once(empty_project, run):
    empty_project({"dataset.path": "images", "sweep.ema_lengths": [0.2, 0.1]})
    result = run("params", "check")
    assert (result.status, result.out) == (2, "")
    for part in ("dataset.path: 'images'", "sweep.ema_lengths: [0.2, 0.1]"):
        assert part in result.err


def test_check_reads_another_file(empty_project, run):
    """Relative to the caller's folder, and the project's params.yaml is not read."""
    folder = empty_project({"vae.seed": "x"})
    (folder / "variants").mkdir()
    write_params(folder / "variants/good.yaml", {})
    write_params(folder / "variants/bad.yaml", {"vae.seed": "y"})
    assert run("params", "check", "variants/good.yaml").status == 0
    result = run("params", "check", "variants/bad.yaml")
    assert result.status == 2
    assert "variants/bad.yaml" in result.err
    assert "seed: 'y'" in result.err


def test_paths_in_a_checked_file_are_relative_to_the_project(empty_project, run, monkeypatch):
    folder = empty_project({})
    (folder / "pickles").mkdir()
    (folder / "variants").mkdir()
    published = {"ema.source": "published", "ema.path": "pickles"}
    write_params(folder / "variants/published.yaml", published)
    monkeypatch.chdir(folder / "variants")
    result = run("params", "check", "published.yaml")
    assert result.status == 0, result.err
    (folder / "pickles").rmdir()
    (folder / "variants/pickles").mkdir()
    result = run("params", "check", "published.yaml")
    assert result.status == 2
    assert "ema.path: 'pickles'" in result.err


def test_check_of_a_file_needs_no_project(tmp_path, run, monkeypatch):
    write_params(tmp_path / "some.yaml", {})
    monkeypatch.chdir(tmp_path)
    assert run("params", "check", "some.yaml").status == 0
    missing = run("params", "check", "none.yaml")
    assert missing.status == 2
    assert "none.yaml: cannot be read" in missing.err


def test_describe_prints_every_field_with_its_value_and_meaning(empty_project, run):
    empty_project({"vae.seed": 123})
    result = run("params", "describe")
    assert (result.status, result.err) == (0, "")
    assert described_keys(result.out) == KEYS
    assert "vae.seed = 123" in result.out
    words = " ".join(result.out.split())  # long descriptions are wrapped
    for key, description in fields(Params):
        assert description
        assert " ".join(description.split()) in words, key


def test_describe_of_a_key_prints_only_that_field(empty_project, run):
    empty_project({"sweep.tensors": ["enc"], "sweep.tensors_base": 0.1})
    result = run("params", "describe", "sweep.tensors")
    assert result.status == 0, result.err
    assert described_keys(result.out) == ["sweep.tensors"]  # and not sweep.tensors_base
    assert "sweep.tensors = ('enc',)" in result.out


def test_describe_of_a_section_prints_its_fields(empty_project, run):
    empty_project({})
    result = run("params", "describe", "vae.losses")
    assert result.status == 0
    keys = described_keys(result.out)
    assert keys == [key for key in KEYS if key == "vae.losses" or key.startswith("vae.losses.")]
    assert len(keys) > 2


@pytest.mark.parametrize("key", ["nothing", "ema.", "em", "EMA"])
def test_describe_refuses_an_unknown_key(empty_project, run, key):
    empty_project({})
    result = run("params", "describe", key)
    assert (result.status, result.out) == (2, "")
    assert f"{key}: not a field or section" in result.err


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr_ref", "diffusion.lr_ref"),
        ("diffusion.lr_reff", "diffusion.lr_ref"),
        ("sweep.sigma_rel", "sweep.ema_lengths"),
    ],
)
def test_describe_proposes_the_key_that_was_meant(empty_project, run, key, meant):
    empty_project({})
    assert f"Did you mean {meant}?" in run("params", "describe", key).err


def test_describe_refuses_wrong_params(empty_project, run):
    empty_project({"vae.seed": "x"})
    result = run("params", "describe", "vae.seed")
    assert (result.status, result.out) == (2, "")
    assert "seed: 'x'" in result.err


def test_preset_lists_all_and_prints_one_without_a_project(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = run("params", "preset")
    assert listed.status == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == list(PRESETS)
    printed = run("params", "preset", "photos")
    assert (printed.status, printed.out) == (0, preset_text("photos"))


def test_an_unknown_preset_is_refused(run):
    result = run("params", "preset", "imagenet512-sx")
    assert (result.status, result.out) == (2, "")
    assert "imagenet512-s" in result.err
