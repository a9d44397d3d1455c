"""Locks of DVC: those of processes that have ended, or whose number another process has."""

import json
import os
import subprocess
import sys

import pytest

from edm2.params import UserError
from edm2.pipeline.doctor.dvc_processes import (
    EXPERIMENTS,
    RWLOCK,
    experiments,
    process_locks,
    unless_dvc_runs,
)
from edm2.pipeline.doctor.finding import ASIDE


@pytest.fixture
def locked_by(root):
    """locked_by(process, time): DVC's file of locks, written at a time."""

    def write(process, written=None, mode="write"):
        lock = {"pid": process, "cmd": "dvc repro"}
        tree = {"write": {}, "read": {}, mode: {"/data": lock if mode == "write" else [lock]}}
        RWLOCK.parent.mkdir(parents=True, exist_ok=True)
        RWLOCK.write_text(json.dumps(tree))
        if written is not None:
            os.utime(RWLOCK, (written, written))

    return write


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("mode", ["write", "read"])
def test_a_lock_of_a_process_that_has_ended_is_moved_aside(locked_by, ended, mode):
    locked_by(ended, mode=mode)
    (finding,) = process_locks()
    assert f"{ended} (dvc repro)" in finding.problem
    finding.repair()
    assert (ASIDE / RWLOCK).exists()
    assert not list(process_locks())


def test_the_checkout_of_a_killed_experiment_is_moved_aside_with_its_note(root, ended):
    folder, note = EXPERIMENTS / "standalone/tmpabc", EXPERIMENTS / "run/12ab/12ab.run"
    other = EXPERIMENTS / "run/34cd/34cd.run"
    for path, tree in (
        (folder / RWLOCK, {"read": {"/a": [{"pid": ended, "cmd": "dvc exp run --temp"}]}}),
        (note, {"root_dir": str(root / folder)}),
        (other, {"root_dir": str(root)}),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(tree))
    (finding,) = experiments()
    assert finding.place == folder
    finding.repair()
    assert [path.exists() for path in (folder, note, other)] == [False, False, True]
    assert (ASIDE / note).exists()


@pytest.mark.parametrize("of_experiment", [False, True])
def test_nothing_is_repaired_while_a_process_of_dvc_runs(root, of_experiment):
    path = EXPERIMENTS / "standalone/tmpabc" / RWLOCK if of_experiment else RWLOCK
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"write": {"/a": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    assert not [*process_locks(), *experiments()]
    with pytest.raises(UserError, match=f"{os.getpid()}.*dvc repro"):
        unless_dvc_runs(lambda: pytest.fail("repaired"))()


def test_a_process_that_started_later_is_another_one(locked_by):
    locked_by(os.getpid(), written=1e9)
    assert len(list(process_locks())) == 1


def test_a_process_that_was_not_waited_for_has_ended(locked_by):
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()  # until it has ended
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    locked_by(process.pid)
    assert len(list(process_locks())) == 1
    process.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"write": {"/data": 1}}'])
def test_a_file_of_locks_that_cannot_be_read_is_moved_aside(root, text):
    RWLOCK.parent.mkdir(parents=True)
    RWLOCK.write_text(text)
    (finding,) = process_locks()
    assert "Unable to read RWLock-file" in finding.meaning
    finding.repair()
    assert not RWLOCK.exists()


def test_no_locks_no_findings(root):
    assert not list(process_locks())
