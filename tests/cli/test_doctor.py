"""`edm2 doctor`: what it prints, what it repairs, and its exit status."""

import pytest

from edm2.pipeline.doctor import examination
from edm2.pipeline.doctor.finding import Finding


@pytest.fixture
def findings(empty_project, monkeypatch):
    """findings(...): what the checks of an empty project find."""
    empty_project({})

    def find(*found):
        monkeypatch.setattr(examination, "CHECKS", (lambda: found,))

    return find


def repairable(name, done):
    return Finding(
        name, "is cut", "DVC stops.", "Remove it.", lambda: done.append(name) or "removed"
    )


def test_nothing_found_gives_status_0(findings, run):
    findings()
    result = run("doctor")
    assert (result.status, result.out) == (0, "Nothing is wrong.\n")


def test_a_finding_is_one_line_with_place_meaning_and_remedy_and_nothing_is_repaired(findings, run):
    done = []
    findings(repairable("a", done), Finding("b", "is locked", "DVC waits.", "Wait."))
    result = run("doctor")
    first, second, summary = result.out.splitlines()
    assert first == "a: is cut. DVC stops. Remove it."
    assert second == "b: is locked. DVC waits. Wait."
    assert "Problems: 2;" in summary
    assert "--fix` repairs 1" in summary
    assert (result.status, done) == (1, [])


def test_fix_repairs_what_it_can_and_the_status_says_whether_something_is_left(findings, run):
    done = []
    findings(repairable("a", done))
    result = run("doctor", "--fix")
    assert (result.status, done) == (0, ["a"])
    assert "repaired: a: is cut: removed." in result.out
    findings(repairable("a", done), Finding("b", "is locked", "DVC waits.", "Wait."))
    assert run("doctor", "--fix").status == 1


def test_a_repair_that_fails_is_said_and_the_others_go_on(findings, run):
    def fail():
        raise OSError(30, "Read-only file system", "a")

    done = []
    findings(Finding("a", "is cut", "", "", fail), repairable("b", done))
    result = run("doctor", "--fix")
    assert (result.status, done) == (1, ["b"])
    assert "not repaired: a: " in result.out
    assert "Read-only" in result.out


def test_outside_a_project_it_says_so(outside_projects, run):
    result = run("doctor")
    assert (result.status, result.out) == (2, "")
    assert "not a project" in result.err


def test_an_unreadable_params_file_is_a_finding(empty_project, run, monkeypatch):
    folder = empty_project({})
    (folder / "params.yaml").write_text("<<<<<<< HEAD\n")
    result = run("doctor")
    assert result.status == 1
    assert any(line.startswith("params.yaml: ") for line in result.out.splitlines())
