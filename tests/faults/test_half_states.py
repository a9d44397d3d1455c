"""Files of DVC cut at many places: `edm2 doctor` names and repairs each; `dvc repro` gives the same bits."""

import shutil
from collections import Counter

import pytest
from campaign import spread
from tiny_dvc import copy_of, dvc, entries, make_dvc_project, objects, remove_results, results

from edm2.cli.main import main

pytestmark = [pytest.mark.faults, pytest.mark.slow]

PLACES = {"dvc.lock": 24, "run cache": 16, "object": 4}  # of each file


@pytest.fixture(scope="module")
def whole(made_once):
    return made_once("tiny-dvc", make_dvc_project)


@pytest.fixture
def doctor(capsys, monkeypatch):
    """The exit status of `edm2 doctor` in a project, and the lines that it prints."""

    def run(folder, *options):
        monkeypatch.chdir(folder)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["doctor", *options])
        return end.value.code, capsys.readouterr().out.splitlines()

    return run


def files_to_cut(kind, project):
    """Relative paths."""
    found = {"dvc.lock": lambda p: [p / "dvc.lock"], "run cache": entries, "object": objects}
    return [path.relative_to(project) for path in found[kind](project)]


def cut(whole, folder, file, size):
    """A copy of the project with a cut file; without results and lock, if it is not the lock that is cut."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_of(whole, folder)
    if file.name != "dvc.lock":
        remove_results(folder)
    content, mode = (folder / file).read_bytes(), (folder / file).stat().st_mode
    (folder / file).unlink()
    (folder / file).write_bytes(content[:size])
    (folder / file).chmod(mode)  # DVC trusts objects that are read-only
    return folder


def is_a_valid_start(project, file, size):
    """Whether what is left of dvc.lock is whole lines of what DVC writes, from which it goes on by itself."""
    return file.name == "dvc.lock" and (project / file).read_bytes()[size - 1 : size] == b"\n"


@pytest.mark.parametrize("kind", PLACES)
def test_a_file_cut_anywhere_is_named_and_repaired(whole, tmp_path, doctor, record, kind):
    good, tally = results(whole), Counter()
    for file in files_to_cut(kind, whole):
        length = (whole / file).stat().st_size
        for size in [0, *spread(length - 1, PLACES[kind])]:
            broken = cut(whole, tmp_path / "project", file, size)
            status, lines = doctor(broken)
            named = status == 1 and any(line.startswith(f"{file}: ") for line in lines)
            repaired = doctor(broken, "--fix")[0] == 0 and doctor(broken)[0] == 0
            same = dvc(broken, "repro").status == 0 and results(broken) == good
            tally.update(tried=1, named=named, repaired=repaired, same=same)
            assert repaired, (file, size)
            assert same, (file, size)
            assert named or is_a_valid_start(broken, file, size), (file, size)
    counts = " | ".join(str(tally[key]) for key in ("tried", "named", "repaired", "same"))
    record(f"| {kind} | {counts} |")
