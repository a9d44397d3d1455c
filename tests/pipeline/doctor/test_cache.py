"""Objects of DVC's cache that are not what their names say."""

import pytest
from tiny_dvc import dvc, objects, remove_results, results

from edm2.pipeline.doctor.cache import objects as damaged_objects
from edm2.pipeline.doctor.finding import ASIDE

pytestmark = pytest.mark.slow


def test_an_out_that_was_edited_in_place_goes_aside_with_its_object(broken):
    good, out = results(broken), broken / "reports/table"
    (link,) = (path for path in objects(broken) if path.samefile(out))
    out.chmod(0o644)
    out.write_text("edited\n")
    out.chmod(0o444)
    (finding,) = damaged_objects()
    assert broken / finding.place == link
    assert "reports/table" in finding.meaning
    finding.repair()
    assert (broken / ASIDE / finding.place).read_text() == "edited\n"
    assert not out.exists()
    assert not list(damaged_objects())
    assert dvc(broken, "repro").status == 0
    assert results(broken) == good


def test_a_cut_object_is_found_and_dvc_alone_would_restore_it(broken):
    good, out = results(broken), broken / "reports/table"
    (damaged,) = (path for path in objects(broken) if path.samefile(out))
    out.unlink()
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    damaged.chmod(0o444)
    assert dvc(broken, "repro").status == 0
    assert results(broken) != good
    (finding,) = damaged_objects()
    assert broken / finding.place == damaged
    finding.repair()
    assert dvc(broken, "repro").status == 0
    assert results(broken) == good


def test_a_cut_list_of_a_folder_is_found(broken):
    (folder,) = (path for path in objects(broken) if path.suffix == ".dir")
    folder.chmod(0o644)
    folder.write_text("[")
    remove_results(broken)
    (finding,) = damaged_objects()
    assert broken / finding.place == folder


def test_a_copy_that_a_killed_process_left_is_found(broken):
    left = objects(broken)[0].parent / "tmpabc"
    left.write_text("part")
    (finding,) = damaged_objects()
    assert broken / finding.place == left
    assert "killed" in finding.problem
