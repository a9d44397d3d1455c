"""Names of revisions in a repository without commits."""

import subprocess

import pytest

from edm2.pipeline.revisions import commit_of, revision_names


@pytest.fixture
def empty_repository(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["F", "HEAD", "main"])
def test_without_a_commit_no_name_is_a_revision(empty_repository, name):
    assert commit_of(name) is None
    assert revision_names() == {}
