"""Packages, git, params and space."""

import os
import subprocess
from types import SimpleNamespace

import pytest
from tiny import TINY, make_project

from edm2.pipeline.doctor import environment
from edm2.pipeline.doctor.environment import disk, packages, params, repository


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True)


def test_a_package_that_is_missing_or_of_another_version_names_its_extra(root, monkeypatch):
    requirements = [
        "numpy>=9999",
        "no-such-package; extra == 'pipeline'",
        "nor-this; extra == 'sd'",
    ]
    monkeypatch.setattr(environment, "requires", lambda name: requirements)
    wrong, missing = packages()
    assert wrong.place == "numpy"
    assert ">=9999" in wrong.problem
    assert wrong.remedy == "Run `pip install 'edm2'`."
    assert missing.place == "no-such-package"
    assert missing.remedy == "Run `pip install 'edm2[pipeline]'`."


def test_packages_of_an_extra_are_wanted_if_params_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(
        make_project(tmp_path / "project", {**TINY, "codec.kind": "stable_diffusion"})
    )
    monkeypatch.setattr(environment, "requires", lambda name: ["nor-this; extra == 'sd'"])
    (missing,) = packages()
    assert missing.remedy == "Run `pip install 'edm2[sd]'`."


def test_the_packages_of_this_environment_fit(root):
    assert [str(finding) for finding in packages()] == []


def test_git_its_repository_and_its_commit_are_wanted(root, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    (nowhere,) = repository()
    assert "git init" in nowhere.remedy
    git("init", "-q")
    (empty,) = repository()
    assert "no commit" in empty.problem
    git("commit", "-q", "--allow-empty", "-m", "Start")
    assert not list(repository())
    monkeypatch.setenv("PATH", "")
    (missing,) = repository()
    assert missing.place == "git"


def test_without_git_by_choice_none_is_wanted(root, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = True\n")
    assert not list(repository())


def test_a_lock_that_git_left_is_named_when_it_is_old(root):
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "Start")
    lock = root / ".git/index.lock"
    lock.touch()
    assert not list(repository())
    os.utime(lock, (1e9, 1e9))
    (finding,) = repository()
    assert finding.place == lock
    assert finding.repair is None


@pytest.mark.parametrize("file", ["params.yaml", "dvc.yaml"])
def test_a_merge_conflict_and_its_line_are_named(tmp_path, monkeypatch, file):
    monkeypatch.chdir(make_project(tmp_path / "project", TINY))
    assert not list(params())
    path = tmp_path / "project" / file
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}")
    (finding,) = params()
    assert str(finding.place) == file
    assert "merge conflict" in finding.problem
    assert "1:1" in finding.problem


def test_a_disk_that_is_nearly_full_is_named_once(root, monkeypatch):
    full = SimpleNamespace(f_bavail=100, f_frsize=4096, f_files=10**6, f_favail=10**5)
    monkeypatch.setattr(environment.os, "statvfs", lambda folder: full)
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(root))
    (finding,) = disk()
    assert finding.place == root
    assert "edm2 clean" in finding.remedy
    full.f_bavail, full.f_favail = 2**30, 10
    (finding,) = disk()
    assert "10 more files" in finding.problem
