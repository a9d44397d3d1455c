"""`.state`: damaged checkpoints and notes, and incomplete files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY, make_project

from edm2.pipeline.doctor.finding import ASIDE
from edm2.pipeline.doctor.states import checkpoints, incomplete_files, logs, notes
from edm2.runtime import temporaries
from edm2.runtime.checkpoint import save_tree
from edm2.runtime.log import Log
from edm2.runtime.state import State, open_state

FOLDER = Path(".state/train_vae/abc")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state with one checkpoint, in a project."""
    monkeypatch.chdir(make_project(tmp_path / "project", TINY))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    state = State(FOLDER)
    state.note(seconds=1.0)
    save_tree(FOLDER / "checkpoint-000000000100", {"w": torch.ones(3)})
    return state


@pytest.fixture
def left():
    """left(path): what a process that has ended was writing; its temporary path."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    def name(path):
        owner = f"{temporaries._machine()}-{process.pid}-0123abcd"
        return path.with_name(f".{path.name}.{owner}.partial")

    return name


def damage(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("file", ["index.json", "part-00000.safetensors"])
@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_damaged_checkpoint_is_moved_aside(state, file, size):
    assert not list(checkpoints())
    (checkpoint,) = state.checkpoints()
    content = (checkpoint / file).read_bytes()
    if file == "index.json":
        size -= size == -1  # the last byte is the end of the line
    damage(checkpoint / file, size)
    (finding,) = checkpoints()
    assert finding.place == checkpoint
    assert (checkpoint / file).read_bytes() == content[:size]
    finding.repair()
    assert not state.checkpoints()
    assert (ASIDE / checkpoint / file).exists()


def test_nothing_of_a_stage_that_runs_is_looked_at_or_moved(state):
    (checkpoint,) = state.checkpoints()
    damage(checkpoint / "index.json", 5)
    (finding,) = checkpoints()
    with open_state("train_vae", "abc"):
        assert not list(checkpoints())
        with pytest.raises(Exception, match="begun"):
            finding.repair()
    assert checkpoint.exists()


@pytest.mark.parametrize("text", ["", "{", "\x00\x00"])
def test_notes_that_cannot_be_read_are_moved_aside(state, text):
    assert not list(notes())
    state.notes.write_text(text)
    (finding,) = notes()
    assert finding.place == state.notes
    finding.repair()
    assert not list(notes())
    assert len(state.checkpoints()) == 1


def test_a_damaged_row_of_a_log_is_named_and_kept(state):
    log = Log(state.log)
    for step in (1, 2):
        log.append(step, {"loss": 0.5}, "nimg")
    assert not list(logs())
    content = state.log.read_bytes().replace(b"0.5", b"0.6", 1)
    state.log.write_bytes(content)
    (finding,) = logs()
    assert finding.place == state.log
    assert "line 1" in finding.problem
    assert finding.repair is None
    assert state.log.read_bytes() == content


def test_incomplete_files_of_ended_processes_are_removed(state, left):
    ours = FOLDER.parent / "def/.checkpoint-000000000200.partial"
    paths = [left(Path("data/images")), left(Path("reports/fid/G-0.csv")), left(FOLDER / "x"), ours]
    for path in paths:
        path.mkdir(parents=True)
        (path / ".inner.partial").touch()
    running = Path(f"data/.images.{temporaries._machine()}-{os.getppid()}-0123abcd.partial")
    running.touch()
    findings = list(incomplete_files())
    assert {finding.place for finding in findings} == set(paths)
    for finding in findings:
        finding.repair()
    assert not any(path.exists() for path in paths)
    assert running.exists()
    assert not list(incomplete_files())


def test_nothing_is_written_without_repairs(state):
    before = sorted(path for path in Path(".state").rglob("*"))
    for check in (checkpoints, notes, logs, incomplete_files):
        assert not list(check())
    assert sorted(path for path in Path(".state").rglob("*")) == before
