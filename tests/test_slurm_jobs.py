"""Jobs of examples/slurm: their syntax, what they share, and the launcher that they name."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny import ROOT

from edm2.params.launch import launched_ranks, split_command

JOBS = ROOT / "examples/slurm"
COMMAND = """
source requeue.sh
command() {
    trap 'echo stopped; exit 130' INT
    echo ready
    while :; do sleep 0.01; done
}
run command
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*"
kill "$PPID"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a job, with an scontrol that ends it as SLURM does."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}


def test_scripts_are_valid() -> None:
    for path in [*JOBS.glob("*.sh"), *JOBS.glob("*.sbatch")]:
        checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert not checked.stderr


def test_usr1_becomes_a_ctrl_c_and_the_job_is_requeued(environment: dict[str, str]) -> None:
    job = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", COMMAND],
        cwd=JOBS,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=60)
    first, _, last = output.splitlines()
    assert (first, last) == ("stopped", "scontrol requeue 7")
    assert job.returncode == -signal.SIGTERM  # as scontrol has done


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_that_ends_by_itself_has_the_status_of_its_command(
    environment: dict[str, str], status: int
) -> None:
    code = f"source requeue.sh; run bash -c 'exit {status}'"
    job = subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=JOBS, env=environment)
    assert job.returncode == status


def test_the_launcher_of_the_readme_starts_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (JOBS / "README.md").read_text().split("```yaml\n")[1:]
    launcher = YAML(typ="safe").load(block.partition("```")[0])["launch"]
    for name, value in (("SLURM_NNODES", "4"), ("SLURM_GPUS_ON_NODE", "8")):
        monkeypatch.setenv(name, value)
    assert launched_ranks(launcher) == 32
    names = {word.strip("$") for word in launcher.replace("=", " ").split() if word[0] == "$"}
    scripts = "".join(path.read_text() for path in JOBS.glob("*.sbatch"))
    assert all(name.startswith("SLURM_") or f"export {name}" in scripts for name in names)
    assert split_command(launcher)[0] == "srun"
