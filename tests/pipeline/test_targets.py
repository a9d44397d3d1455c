"""What the arguments of `edm2 compare` are."""

import pytest

from edm2.params import UserError
from edm2.pipeline import targets
from edm2.pipeline.targets import find_targets

CONFIGS = {"workspace": ["C", "G", "exp"], "HEAD": ["D", "G"], "main": ["D", "G"], "exp": ["F"]}
COMMITS = {"HEAD": "a1", "main": "a1", "exp": "b2"}


@pytest.fixture(autouse=True)
def project(monkeypatch):
    """Configs of each revision; HEAD and main are one commit, and exp is also the name of a config."""
    names = {"experiments": ["exp", "puffy-daks"], "branches": ["main"]}
    monkeypatch.setattr(targets, "commit_of", COMMITS.get)
    monkeypatch.setattr(targets, "revision_names", lambda: names)
    monkeypatch.setattr(targets, "read_params", lambda revision: {"configs": CONFIGS[revision]})


def found(*names):
    return [(t.revision, t.configs, str(t)) for t in find_targets(names)]


def test_revisions_and_configs():
    assert found("HEAD", "C", "workspace:G", "exp:F", "workspace") == [
        ("HEAD", ["D", "G"], "HEAD"),
        ("workspace", ["C"], "workspace:C"),
        ("workspace", ["G"], "workspace:G"),
        ("exp", ["F"], "exp:F"),
        ("workspace", ["C", "G", "exp"], "workspace"),
    ]


def test_one_commit_counts_once():
    """By whichever of its names comes first."""
    assert found("HEAD", "main", "HEAD:G", "main:G", "G", "workspace:G") == [
        ("HEAD", ["D", "G"], "HEAD"),
        ("HEAD", ["G"], "HEAD:G"),
        ("workspace", ["G"], "workspace:G"),
    ]


def test_a_name_of_two_things_is_refused():
    with pytest.raises(UserError, match=r"exp: both .*workspace:exp.*refs/heads/exp"):
        find_targets(["exp"])
    assert found("workspace:exp") == [("workspace", ["exp"], "workspace:exp")]


@pytest.mark.parametrize("name", ["D", "puffy-dak", "HAED:G", "nothing", ":G"])
def test_an_unknown_name_is_refused_with_those_that_exist(name):
    with pytest.raises(UserError) as error:
        find_targets(["HEAD", name])
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    for known in ("C, G, exp", "exp, puffy-daks", "branches main"):
        assert known in message
    assert ("Did you mean puffy-daks?" in message) == (name == "puffy-dak")


def test_a_config_that_the_revision_does_not_have():
    with pytest.raises(UserError, match=r"HEAD:C: HEAD has no config C: expected one of D, G"):
        find_targets(["HEAD:C"])


def test_without_git_there_is_only_the_workspace(monkeypatch):
    monkeypatch.setattr(targets, "revision_names", dict)
    with pytest.raises(UserError, match="only the workspace"):
        find_targets(["main2"])
