"""A sample of the campaign of faults, in seconds; `make faults` runs all of it."""

import errno

import pytest
import small_stage
from campaign import Campaign, Tally, spread
from deliveries import break_from
from downloads import try_download
from interposer import refuse, run_out_of_memory
from tracking_server import FAULTS

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


def test_a_command_goes_on_after_a_kill_or_a_full_disk(command):
    runs, killed, full = command("ema reconstruct"), Tally(), Tally()
    for number in spread(runs.changes(), 2):
        runs.kill_at(number, killed)
    for number in spread(runs.changes(removals=False), 1):
        act = refuse(errno.ENOSPC)
        runs.fail_at(number, act, full, removals=False, lasting=True)
    assert (killed.failed, killed.left, full.failed, full.left) == ([], [], [], [])
    assert (killed.same, full.same, full.explained) == (2, 1, 1)


def test_a_tracking_server_that_breaks_gets_all_later(attempts, record):
    for name in ("429 for an hour", "HTML", "done, and closed"):
        for number in (1, 5):
            break_from(attempts, name, number)
    attempts.check("sample", record)


def test_a_download_that_breaks_leaves_nothing(published, tmp_path):
    tally = Tally()
    for name in ("truncated", "truncated chunks", "HTML", "drip"):
        try_download(published, tmp_path / "cache", name, FAULTS[name], tally)
    assert (tally.failed, tally.left, tally.left_at_once) == ([], [], [])
    assert tally.tried == tally.same == tally.explained
