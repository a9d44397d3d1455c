"""A sample of the campaign of faults, in seconds; `make faults` runs all of it."""

import errno

import pytest
import small_stage
from campaign import Campaign, Tally, spread
from interposer import refuse, run_out_of_memory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """Of the publication of the small stage."""
    return Campaign(small, tmp_path_factory.mktemp("runs"), small_stage.NAME, publication=True)


def test_kills_leave_nothing_behind(runs):
    tally = Tally()
    for number in spread(runs.changes(), 8):
        runs.kill_at(number, tally)
    assert (tally.failed, tally.left) == ([], [])
    assert tally.same == 8


@pytest.mark.parametrize(
    ("act", "options"),
    [
        (refuse(errno.ENOSPC), {"removals": False, "lasting": True}),
        (refuse(errno.EMFILE), {"removals": False, "reads": True}),
        (run_out_of_memory, {"removals": False}),
    ],
    ids=["full disk", "too many files", "no memory"],
)
def test_errors_of_the_system_are_sentences(runs, act, options):
    tally = Tally()
    for number in spread(runs.changes(removals=False), 3):
        runs.fail_at(number, act, tally, **options)
    assert (tally.failed, tally.left, tally.left_at_once) == ([], [], [])
    assert tally.explained
    assert tally.same == 3
