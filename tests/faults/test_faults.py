"""Whatever happens to a stage, running it again gives the same bits, and nothing else is left.

`make faults` runs it; the table is that of docs/reliability.md.
"""

import errno

import pytest
import small_stage
from campaign import Campaign, Tally, spread
from interposer import refuse, run_out_of_memory

pytestmark = [pytest.mark.faults, pytest.mark.slow]

PHASES = pytest.mark.parametrize("publication", [False, True], ids=["whole", "publication"])
PLACES = 8  # of each kind of error
FULL = ("ENOSPC", "EDQUOT")  # files can still be removed
READ = (
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EACCES",
    "EIO",
    "ENAMETOOLONG",
    "ENOTDIR",
    "EISDIR",
    "ENOENT",
)
REMOVE = ("EROFS", "EACCES", "EPERM", "EIO")
KINDS = tuple(dict.fromkeys((*FULL, *REMOVE, *READ)))
REAL = ("prepare", "reference", "train_vae", "encode_latents", "train_diffusion", "fid")


@pytest.fixture
def campaign(small, tmp_path):
    """campaign(publication): of the small stage."""
    return lambda publication: Campaign(small, tmp_path, small_stage.NAME, publication)


def check(tally, kind, record, at_once=True):
    record(tally.row(kind))
    assert tally.tried
    assert tally.failed == []
    assert tally.left == []
    assert tally.left_at_once == [] or not at_once
    assert tally.same == tally.tried


@PHASES
def test_a_kill_before_each_change(campaign, record, publication):
    runs, tally = campaign(publication), Tally()
    for number in range(1, runs.changes() + 1):
        runs.kill_at(number, tally)
    check(tally, f"killed, {'publication' if publication else 'whole stage'}", record)


@PHASES
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_system(campaign, record, kind, lasting, publication):
    runs, tally, act = campaign(publication), Tally(), refuse(getattr(errno, kind))
    options = {"reads": kind in READ, "removals": kind in REMOVE}
    count = runs.changes(**options)
    for number in range(1, count + 1) if kind == "ENOSPC" else spread(count, PLACES):
        runs.fail_at(number, act, tally, lasting=lasting, **options)
    phase = "publication" if publication else "whole stage"
    row = f"{kind}{' from then on' if lasting else ''}, {phase}"
    check(tally, row, record, at_once=kind in FULL)


@PHASES
def test_no_memory(campaign, record, publication):
    runs, tally = campaign(publication), Tally()
    for number in spread(runs.changes(removals=False), PLACES):
        runs.fail_at(number, run_out_of_memory, tally, removals=False)
    check(tally, f"MemoryError, {'publication' if publication else 'whole stage'}", record)


def test_a_write_that_ends_early_within_a_library(campaign, record):
    runs, tally = campaign(publication=False), Tally()
    for size in (0, 1, 50, 100, 200, 300, 400, 600, 1000, 1500, 2000, 4000):
        runs.limit_files(size, tally)
    check(tally, "EFBIG, within libraries", record)


@pytest.mark.parametrize("stage", REAL)
def test_a_kill_and_a_full_disk_in_the_publication_of_a_real_stage(tiny, tmp_path, record, stage):
    runs, killed, full = Campaign(tiny, tmp_path, stage, True), Tally(), Tally()
    for number in spread(runs.changes(), 4):
        runs.kill_at(number, killed)
    for number in spread(runs.changes(removals=False), 4):
        runs.fail_at(number, refuse(errno.ENOSPC), full, removals=False, lasting=True)
    check(killed, f"killed, publication of {stage}", record)
    check(full, f"ENOSPC from then on, publication of {stage}", record)
