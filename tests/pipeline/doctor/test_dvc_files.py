"""Half-states of DVC: each is found, said in one line, and repaired to the same bits."""

import shutil

import pytest
from tiny_dvc import dvc, entries, objects, remove_results, results

from edm2.pipeline.doctor.dvc_files import broken_links, configuration, lock_file, run_cache
from edm2.pipeline.doctor.examination import examine
from edm2.pipeline.doctor.finding import ASIDE

pytestmark = pytest.mark.slow


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 5, 60, 300, -1])
def test_a_cut_lock_file_is_replaced_by_that_of_the_last_commit(broken, size):
    good, lock = results(broken), broken / "dvc.lock"
    cut(lock, size)
    damaged = lock.read_bytes()
    (finding,) = lock_file()
    assert str(finding.place) == "dvc.lock"
    finding.repair()
    assert (broken / ASIDE / "dvc.lock").read_bytes() == damaged
    assert results(broken) == good
    assert not list(lock_file())


def test_without_a_commit_dvc_writes_a_new_lock_file_from_its_cache(broken):
    good = results(broken)
    shutil.rmtree(broken / ".git/refs")
    cut(broken / "dvc.lock", 60)
    (finding,) = lock_file()
    shutil.rmtree(broken / ".git")
    (broken / ".dvc/config").write_text("[core]\n    no_scm = true\n    autostage = false\n")
    finding.repair()
    ended = dvc(broken, "repro")
    assert ended.status == 0, ended.text
    assert "Running stage" not in ended.text
    assert results(broken) == good


def test_a_merge_conflict_is_left_to_the_user(broken):
    lock = broken / "dvc.lock"
    lock.write_text(lock.read_text().replace("stages:", "<<<<<<< HEAD\nstages:"))
    (finding,) = lock_file()
    assert "merge conflict" in finding.problem
    assert finding.repair is None


@pytest.mark.parametrize("size", [0, 20, 150, -1])
def test_a_cut_entry_of_the_run_cache_is_moved_aside(broken, size):
    entry, other = entries(broken)
    cut(entry, size)
    (finding,) = run_cache()
    assert finding.place == entry.relative_to(broken)
    finding.repair()
    assert not entry.parent.exists()
    assert other.exists()
    assert not list(run_cache())


def test_an_empty_folder_of_the_run_cache_stops_dvc_for_ever_and_is_removed(broken):
    good, (entry, _) = results(broken), entries(broken)
    entry.unlink()
    remove_results(broken)
    assert "join() argument must be str" in dvc(broken, "repro").text
    (finding,) = run_cache()
    finding.repair()
    assert dvc(broken, "repro").status == 0
    assert results(broken) == good


def test_what_a_killed_process_left_in_the_run_cache_is_found(broken):
    left = entries(broken)[0].with_name("tmpk3j2")
    left.write_text("cmd: x\n")
    (finding,) = run_cache()
    assert finding.place == left.relative_to(broken)


def test_a_link_to_an_object_that_is_gone_is_removed(broken):
    good, out = results(broken), broken / "reports/table"
    (target,) = (path for path in objects(broken) if path.samefile(out))
    out.unlink()
    out.symlink_to(target)
    assert not list(broken_links())
    target.unlink()
    (finding,) = broken_links()
    assert str(finding.place) == "reports/table"
    finding.repair()
    assert dvc(broken, "repro").status == 0
    assert results(broken) == good


def test_links_into_a_cache_whose_disk_is_not_mounted_stay(broken):
    out = broken / "reports/table"
    out.unlink()
    out.symlink_to(broken / ".dvc/cache/files/md5/ab/cd")
    shutil.rmtree(broken / ".dvc/cache")
    (finding,) = broken_links()
    assert finding.repair is None
    assert "Mount" in finding.remedy


@pytest.mark.parametrize("text", ["[cor", "[nosuch]\n    x = 1\n"])
def test_a_broken_configuration_is_named(broken, text):
    (broken / ".dvc/config").write_text(text)
    (finding,) = configuration()
    assert str(finding.place) == ".dvc/config"
    assert finding.repair is None
    assert [str(each.place) for each in examine()] == [".dvc/config"]
