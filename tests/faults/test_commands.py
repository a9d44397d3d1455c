"""Whatever happens to a command that writes, the same command then gives the same bits, and nothing else."""

import errno

import pytest
from campaign import Tally, spread
from commands import COMMANDS
from interposer import refuse, run_out_of_memory

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KINDS = {
    "killed": None,
    "ENOSPC": (refuse(errno.ENOSPC), {"removals": False}),
    "ENOSPC from then on": (refuse(errno.ENOSPC), {"removals": False, "lasting": True}),
    "EIO": (refuse(errno.EIO), {"reads": True}),
    "EMFILE": (refuse(errno.EMFILE), {"removals": False, "reads": True}),
    "MemoryError": (run_out_of_memory, {"removals": False}),
}
PLACES = 3  # of the errors that are not tried everywhere


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_writes(command, record, name, kind):
    runs, tally = command(name), Tally()
    act, options = KINDS[kind] or (None, {})
    count = runs.changes(**{**options, "lasting": False})
    everywhere = kind in ("killed", "ENOSPC from then on")
    for number in range(1, count + 1) if everywhere else spread(count, PLACES):
        if act is None:
            runs.kill_at(number, tally)
        else:
            runs.fail_at(number, act, tally, **options)
    record(tally.row(f"edm2 {name}: {kind}"))
    assert (tally.failed, tally.left) == ([], [])
    assert tally.same == tally.tried
