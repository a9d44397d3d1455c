"""A stage is started by the launcher that params name for it, with its arguments, once."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import ROOT, STAGES, write_params

from edm2.params import UserError
from edm2.params.launch import ONE_PROCESS, launched_ranks, launcher_of, wrong_counts
from edm2.params.launch import STAGES as KNOWN
from edm2.pipeline import runner
from edm2.pipeline.launcher import launch

TORCHRUN = "torchrun --nproc_per_node=8"


class Replaced(Exception):
    """The process would be another program now."""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launcher beside this Python; in the environment of a stage that DVC runs."""

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Replaced(path, arguments, environment)

    file = tmp_path / "torchrun"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("DVC_STAGE", "fid@G-0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["fid.py", "G", "--params", "my params.yaml"])
    monkeypatch.setattr(os, "execve", execve)
    return file


def started(stage: str, command: object) -> tuple[str, list[str], dict[str, str]]:
    with pytest.raises(Replaced) as replaced:
        launch(stage, {"launch": command})
    return replaced.value.args


@pytest.mark.parametrize("command", [TORCHRUN, {"default": "python", "fid": TORCHRUN}])
def test_a_stage_becomes_its_launcher(program: Path, command: object) -> None:
    path, arguments, environment = started("fid", command)
    assert path == str(program)
    words = ["-m", "stages.fid", "G", "--params", "my params.yaml", "--no-launch"]
    assert arguments == [*TORCHRUN.split(), *words]
    assert environment["DVC_STAGE"] == "fid@G-0"
    assert environment["PATH"].split(os.pathsep)[0] == str(program.parent)


def test_words_are_those_of_a_shell_with_variables_replaced_once(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODES", "2 ; touch X")
    _, arguments, _ = started("fid", "torchrun --nnodes=$NODES 'a b' $(touch)")
    assert arguments[1:4] == ["--nnodes=2 ; touch X", "a b", "$(touch)"]


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("fid", "python"),
        ("fid", {"default": TORCHRUN, "fid": "python"}),
        ("report", TORCHRUN),  # uses one process
        ("fid", 1),  # wrong params are reported with all others
        ("fid", {"train_vae": TORCHRUN}),
        ("fid", "torchrun 'x"),
        ("fid", ""),
        ("fid", "torchrun --nproc_per_node=-1"),
        ("fid", "torchrun --nproc_per_node=8 > log"),
    ],
)
def test_a_stage_goes_on_in_its_process(program: Path, stage: str, command: object) -> None:
    launch(stage, {"launch": command})
    launch(stage, None)


def test_what_torchrun_has_started_starts_no_other(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    launch("fid", {"launch": TORCHRUN})


@pytest.mark.parametrize("command", ["nowhere --x", "torchrun --nnodes=${UNSET_NODES}", "./text"])
def test_a_launcher_that_cannot_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    for name in ("torchrun", "text"):
        Path(name).write_text("no program")
        Path(name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    missing = {"nowhere": "nowhere", "torchrun": "UNSET_NODES", "./text": "format"}
    with pytest.raises(UserError, match=missing[command.split()[0]]) as error:
        launch("prepare", {"launch": {"default": command}})
    assert str(error.value).startswith(f"launch: {command!r} (prepare): ")


@pytest.mark.parametrize("arguments", [[], ["--no-launch"]])
def test_a_launched_stage_runs_with_the_params_of_its_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    calls: list[Any] = []
    shutil.copy(ROOT / "dvc.yaml", root)
    write_params(root / "my.yaml", {"launch": TORCHRUN, "vae.seed": 7})
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--params", "my.yaml", *arguments])
    monkeypatch.setattr(runner, "raise_at_signals", lambda: None)
    monkeypatch.setattr(runner, "launch", lambda stage, tree: calls.append((stage, tree["launch"])))
    monkeypatch.setattr(
        runner, "run_stage", lambda name, run, params, *_: calls.append(params.vae.seed)
    )
    runner.main(lambda context: None)
    assert calls == ([] if arguments else [("prepare", TORCHRUN)]) + [7]


def test_params_know_the_stages() -> None:
    assert KNOWN == STAGES
    modules = {path.stem for path in (ROOT / "stages").glob("[a-z]*.py")}
    assert modules == set(STAGES)


def test_the_default_is_for_stages_that_share_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = {"default": TORCHRUN, "train_vae": "srun python", "report": "srun -n1 python"}
    chosen = {stage: launcher_of(launchers, stage) for stage in STAGES}
    assert chosen.pop("train_vae") == "srun python"
    assert chosen.pop("report") == "srun -n1 python"
    assert {stage for stage, command in chosen.items() if command == "python"} == {
        "snapshot_emas",
        "sweep_ema",
    }
    assert set(ONE_PROCESS) == {"snapshot_emas", "sweep_ema", "report"}
    monkeypatch.setenv("NODES", "4")
    assert launched_ranks("srun torchrun --nnodes=$NODES --nproc-per-node 8") == 32
    monkeypatch.delenv("NODES")
    assert launched_ranks("srun torchrun --nnodes=$NODES --nproc-per-node 8") == 8


@pytest.mark.parametrize("count", ["2", "1:4", "gpu", "auto", "$UNSET_NODES", "${UNSET_NODES}"])
def test_counts_that_torchrun_understands_are_right(count: str) -> None:
    assert wrong_counts(f"torchrun --nnodes={count} --nproc-per-node 8") == []
