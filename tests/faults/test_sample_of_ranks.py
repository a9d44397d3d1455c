"""A sample of the campaign over ranks, in seconds; `make faults` runs all of it."""

from signal import SIGKILL, SIGTERM

import pytest
import small_training
from campaign import Tally
from own_process import in_own_process
from rank_campaign import RankCampaign
from small_training import BATCH

pytestmark = pytest.mark.slow


@in_own_process
def test_a_kill_and_a_signal_between_two_rows_of_the_log(tmp_path):
    pipeline = small_training.make_pipeline(tmp_path / "source")
    runs, tally = RankCampaign(pipeline, tmp_path, small_training.NAME), Tally()
    runs.signal_rank(1, 7 * BATCH, SIGKILL, tally)
    runs.signal_rank(0, 13 * BATCH, SIGTERM, tally)
    assert (tally.failed, tally.left) == ([], [])
    assert tally.same == tally.explained == 2
