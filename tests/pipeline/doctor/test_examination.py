"""All checks together: nothing is written, waited for or raised, whatever the files are."""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tiny_dvc import entries, objects

from edm2.pipeline.doctor.examination import CHECKS, examine

pytestmark = pytest.mark.slow
SECONDS = 60


def snapshot(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def random_bytes(path):
    path.write_bytes(random.Random(0).randbytes(200))


def folder(path):
    path.mkdir()


def text(path):
    path.write_text("[" * 1000)


@pytest.fixture
def hurry():
    """Opening a named pipe would wait for ever."""

    def late(*_):
        pytest.fail("it waits")  # no Exception, which the checks would survive

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_project_without_half_states_has_no_findings_and_is_not_changed(broken):
    before = snapshot(broken)
    assert [str(finding) for finding in examine()] == []
    assert snapshot(broken) == before


def test_a_check_that_fails_is_a_finding(broken, monkeypatch):
    def odd_file():
        raise RecursionError("too deep")
        yield

    monkeypatch.setattr("edm2.pipeline.doctor.examination.CHECKS", (odd_file, *CHECKS))
    (finding,) = examine()
    assert (finding.place, finding.repair) == ("odd file", None)
    assert "too deep" in finding.problem


@pytest.mark.parametrize("kind", [random_bytes, folder, text, os.mkfifo])
def test_no_file_stops_the_checks(broken, hurry, kind):
    names = ["dvc.lock", ".dvc/tmp/rwlock", ".dvc/config", ".mlflow/mlflow.db"]
    state = Path(".state/fid-G-0/abc")
    paths = [Path(name) for name in names] + [entries(Path())[0], objects(Path())[0]]
    paths += [state / "notes.json", state / "checkpoint-000000000100/index.json"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        kind(path)
    lines = [str(finding) for finding in examine()]
    for name in ("dvc.lock", "rwlock", ".dvc/config"):
        assert any(name in line for line in lines), (name, lines)


def test_without_dvc_the_other_checks_go_on(broken, monkeypatch):
    for name in ("dvc", "dvc.config", "dvc.schema"):
        monkeypatch.setitem(sys.modules, name, None)
    shutil.rmtree(broken / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(broken.parent))
    lines = [str(finding) for finding in examine()]
    assert any("pip install 'edm2[pipeline]'" in line for line in lines)
    assert any("git init" in line for line in lines)
