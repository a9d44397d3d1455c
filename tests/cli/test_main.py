"""`edm2` itself: where the project is, exit statuses, and what is imported."""

import errno
import os
import signal
import sys

import pytest
from tiny import ROOT, write_params

import edm2
from edm2.cli import main
from edm2.runtime.interruption import SIGNALS
from edm2.runtime.manifest import write_manifest


def test_version_is_printed(run):
    result = run("--version")
    assert (result.status, result.err) == (0, "")
    assert edm2.__version__ in result.out


@pytest.mark.parametrize(
    ("args", "place"),
    [
        (("vae", "train", ""), "after train"),
        (("ema", "list", ""), "after list"),
        (("vae", "train", "v", "--images", ""), "after --images"),
        (("--project=", "verify"), "of --project"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(run, args, place):
    result = run(*args)
    assert result.status == 2
    assert f"edm2: the value {place} is empty" in result.err


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_all_commands(run, option):
    result = run(option)
    assert (result.status, result.err) == (0, "")
    for command in ("compare", "ema", "model", "params", "sample", "verify"):
        assert f"\n  {command} " in result.out


def test_the_project_is_the_nearest_one_above(empty_project, run, monkeypatch):
    folder = empty_project({"vae.seed": 123})
    (folder / "notes/deep").mkdir(parents=True)
    write_params(folder / "notes/params.yaml", {"vae.seed": 456})  # not a project without dvc.yaml
    monkeypatch.chdir(folder / "notes/deep")
    result = run("params", "describe", "vae.seed")
    assert result.status == 0, result.err
    assert "vae.seed = 123" in result.out


def test_a_project_elsewhere_can_be_named(empty_project, run, tmp_path, monkeypatch):
    folder = empty_project({"vae.seed": 123})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in (folder, "../project"):
        result = run("--project", name, "params", "describe", "vae.seed")
        assert result.status == 0, result.err
        assert "vae.seed = 123" in result.out


def test_a_named_project_is_used_instead_of_the_current_one(empty_project, run, tmp_path):
    folder = empty_project({"vae.seed": 123})
    other = tmp_path / "other"
    other.mkdir()
    (other / "dvc.yaml").write_text("stages: {}\n")
    write_params(other / "params.yaml", {"vae.seed": 456})
    assert "vae.seed = 456" in run("--project", other, "params", "describe", "vae.seed").out
    (folder / "notes").mkdir()
    assert run("--project", "notes", "params", "check").status == 2  # it is not a project


@pytest.mark.parametrize("where", ["subfolder", "elsewhere"])
def test_files_are_relative_to_the_folder_of_the_caller(
    empty_project, run, tmp_path, monkeypatch, where
):
    folder = empty_project({})
    caller = {"subfolder": folder / "notes", "elsewhere": tmp_path / "elsewhere"}[where]
    (caller / "results").mkdir(parents=True)
    (caller / "results/file").write_text("content")
    write_manifest(caller / "results")
    write_params(caller / "other.yaml", {"vae.seed": "x"})
    monkeypatch.chdir(caller)
    options = () if where == "subfolder" else ("--project", os.path.relpath(folder, caller))
    result = run(*options, "params", "check", "other.yaml")
    assert result.status == 2
    assert f"{caller / 'other.yaml'} " in result.err
    assert "seed: 'x'" in result.err
    assert run(*options, "verify", "results").status == 0


@pytest.mark.parametrize(
    "command",
    [
        ("params", "check"),
        ("params", "describe"),
        ("compare", "first"),
        ("compare", "--vae", "first"),
        ("verify",),
    ],
)
def test_outside_a_project_the_message_explains_what_a_project_is(
    run, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    result = run(*command)
    assert (result.status, result.out) == (2, "")
    for part in (str(tmp_path), "params.yaml", "dvc.yaml", "--project"):
        assert part in result.err
    assert "Traceback" not in result.err


def test_a_named_folder_must_be_a_project(run, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        result = run("--project", folder, "params", "check")
        assert (result.status, result.out) == (2, "")
        assert str(folder) in result.err
        assert "--project" in result.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["params", "nonsense"], "nonsense"),
        (["params", "check", "--nonsense"], "--nonsense"),
        (["compare"], "BASE"),
        (["ema", "reconstruct", "store"], "--lengths"),
    ],
)
def test_wrong_usage_gives_status_2(run, arguments, named):
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert named in result.err


def test_no_command_gives_help_and_status_2(run):
    result = run()
    assert result.status == 2
    assert "params" in result.err


def test_as_a_program_errors_have_no_traceback(program, tmp_path):
    result = program("params", "check", cwd=tmp_path)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("edm2: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("arguments", [("params", "describe"), ("--help",)])
def test_a_closed_pipe_is_not_an_error(program, arguments):
    """As with `| head`; the pipe is closed from the start, so that writing always fails."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = program(*arguments, cwd=ROOT, stdout=writing)
    finally:
        os.close(writing)
    assert (result.status, result.err) == (0, "")


@pytest.mark.slow
def test_output_need_not_be_utf_8(program):
    result = program("params", "describe", "diffusion.lr_ref", cwd=ROOT, PYTHONIOENCODING="latin-1")
    assert (result.status, result.err) == (0, "")
    assert r"\u03b1_ref" in result.out


def test_a_full_disk_is_told(run, monkeypatch):
    error = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    monkeypatch.setattr("edm2.params.load", raising(error))
    result = run("params", "check", "params.yaml")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("edm2: /data/x: No space left on device")


def raising(error):
    def call(*_):
        raise error

    return call


def test_ctrl_c_gives_status_130(run, monkeypatch):
    monkeypatch.setattr("edm2.params.load", raising(KeyboardInterrupt()))
    result = run("params", "check", "params.yaml")
    assert result.status == 130
    assert "interrupted" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "error",
    [
        EOFError("a truncated file"),
        RuntimeError("a bug"),
        ModuleNotFoundError("an incompatible version", name="numpy.no_such_module"),
    ],
)
def test_other_errors_keep_their_traceback(run, monkeypatch, error):
    monkeypatch.setattr("edm2.params.load", raising(error))
    result = run("params", "check", "params.yaml")
    assert result.status == 1
    assert "Traceback" in result.err
    assert str(error) in result.err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    empty_project, run, monkeypatch
):
    empty_project({})
    for module in ("edm2.pipeline.comparison", "edm2.reporting.changes"):  # which imports pandas
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = run("compare", "workspace")
    assert (result.status, result.out) == (2, "")
    assert "pandas" in result.err
    assert "pip install 'edm2[pipeline]'" in result.err
    assert "Traceback" not in result.err


def test_a_missing_module_of_edm2_is_a_bug(empty_project, run, monkeypatch):
    empty_project({})
    monkeypatch.setitem(sys.modules, "edm2.pipeline.comparison", None)
    result = run("compare", "first")
    assert result.status == 1
    assert "ModuleNotFoundError" in result.err


def test_shells_can_complete_command_lines(program):
    result = program(
        cwd=ROOT, _EDM2_COMPLETE="bash_complete", COMP_WORDS="edm2 par", COMP_CWORD="1"
    )
    assert result.out.split() == ["plain,params"]


def test_a_signal_after_the_command_ends_the_process_without_a_traceback():
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        with pytest.raises(SystemExit):
            main(["--version"])
        assert {signal.getsignal(signum) for signum in SIGNALS} == {signal.SIG_DFL}
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
