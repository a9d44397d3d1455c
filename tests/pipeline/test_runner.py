"""How a stage ends: its exit status, its status in MLflow, and the output that it has buffered."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import ROOT, TINY, write_params

pytestmark = pytest.mark.slow

PIPELINE = """
stages:
  ending:
    cmd: python ending.py
    outs: [out.txt]
"""
STAGE = """
import json, os, signal, sys, time
from pathlib import Path

from edm2.params import UserError
from edm2.pipeline.runner import main
from edm2.runtime import device, distributed, state, tracking


class Courier:  # takes the place of MLflow
    def __init__(self, outbox, store):
        self.outbox = outbox

    def close(self):
        *_, (entry, _) = self.outbox.entries()
        print("MLflow:", entry["status"])


def send(signum):
    os.kill(os.getpid(), signum)
    time.sleep(30)


def run(context):
    '''Print a note, then do what the test says.'''
    print("a note")
    exec(os.environ["ENDING"])


tracking.Courier = Courier
statuses = []
# Importing torch takes seconds: each run goes on from here, in a process of its own
for root, folder, code, output in json.loads(sys.argv.pop()):
    process = os.fork()
    if process == 0:
        os.environ |= {"DVC_ROOT": root, "ENDING": code}
        os.chdir(Path(root, folder))
        Path(root, "out.txt").unlink(missing_ok=True)  # as DVC does before a stage runs
        with open(output, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        break
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
else:
    print(json.dumps(statuses))
    sys.exit()
main(run)
"""
COMPLETE = "context.out('out.txt').write_text('x'); context.conclude('an x')"
ENDINGS = {  # code; the exit status, and beginnings of the lines that are printed
    "user error": ("raise UserError('wrong')", 2, ["MLflow: FAILED", "ending: wrong"]),
    "system error": (
        "open('/nowhere/x')",
        2,
        ["MLflow: FAILED", "ending: /nowhere/x: No such file"],
    ),
    "Ctrl-C": ("send(signal.SIGINT)", 130, ["MLflow: KILLED", "ending: stopped by SIGINT"]),
    "SIGTERM": ("send(signal.SIGTERM)", 143, ["MLflow: KILLED", "ending: stopped by SIGTERM"]),
    "SIGKILL": ("send(signal.SIGKILL)", -9, []),
    "error": ("raise ZeroDivisionError", 1, ["MLflow: FAILED", "Traceback"]),
    "no results": ("pass", 1, ["MLflow: FAILED", "Traceback"]),  # no out.txt to publish
    "complete": (COMPLETE, 0, ["MLflow: FINISHED", "ending: an x; "]),
}


@dataclass(frozen=True)
class Ending:
    """How a run of the stage ended in the project `root`."""

    root: Path
    status: int
    printed: str


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """All endings; then two in other projects: in a folder below the root, and of a complete stage."""
    base = tmp_path_factory.mktemp("endings")
    (base / "ending.py").write_text(STAGE)
    runs = {name: (name, ".", code) for name, (code, _, _) in ENDINGS.items()}
    runs["below"] = ("below", "docs", COMPLETE)
    runs["again"] = ("complete", ".", "raise ZeroDivisionError")
    for root in {base / root for root, _, _ in runs.values()}:
        (root / "docs").mkdir(parents=True)
        (root / "dvc.yaml").write_text(PIPELINE)
        write_params(root / "params.yaml", {**TINY, "tracking.mlflow": True})
    tasks = [
        (str(base / root), folder, code, f"{base}/{name}.txt")
        for name, (root, folder, code) in runs.items()
    ]
    done = subprocess.run(
        [sys.executable, base / "ending.py", json.dumps(tasks)],
        env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: Ending(base / root, status, (base / f"{name}.txt").read_text())
        for (name, (root, _, _)), status in zip(runs.items(), json.loads(done.stdout), strict=True)
    }


@pytest.mark.parametrize("name", ENDINGS)
def test_output_comes_in_order_and_mlflow_gets_the_status(
    endings: dict[str, Ending], name: str
) -> None:
    ending, (_, status, lines) = endings[name], ENDINGS[name]
    assert ending.status == status, ending.printed
    printed = ending.printed.splitlines()
    assert len(printed) >= len(lines) + 1
    for line, start in zip(printed, ["a note", *lines], strict=False):
        assert line.startswith(start), ending.printed


def test_in_another_folder_the_root_is_told(endings: dict[str, Ending]) -> None:
    ending = endings["below"]
    assert ending.status == 2
    (line,) = ending.printed.splitlines()
    assert line.startswith("ending: dvc.yaml: ")
    assert f"cd {ending.root}." in line


def test_a_complete_stage_says_so_and_does_not_log_again(endings: dict[str, Ending]) -> None:
    assert re.search(r"ending: an x; \d+ s; out\.txt", endings["complete"].printed)
    ending = endings["again"]
    assert ending.status == 0, ending.printed
    assert "already complete" in ending.printed
    assert "a note" not in ending.printed
    assert "MLflow" not in ending.printed
    assert (ending.root / "out.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["complete", "SIGTERM", "SIGKILL"])
def test_seconds_are_noted_unless_the_process_was_killed(
    endings: dict[str, Ending], name: str
) -> None:
    (path,) = endings[name].root.glob(".state/ending/*/notes.json")
    seconds = json.loads(path.read_text())["seconds"]
    assert seconds is None if name == "SIGKILL" else seconds > 0
