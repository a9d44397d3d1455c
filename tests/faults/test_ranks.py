"""Trainings on several ranks: kills, signals and second launches, then the same bits and the same log.

`make faults` runs it; the table is that of docs/reliability.md.
"""

import os
import re
import shutil
import time
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1

import numpy as np
import pytest
import small_training
from campaign import Tally, spread
from rank_campaign import RankCampaign, processes_of, torchrun
from safetensors.numpy import load
from small_training import BATCH, STEPS

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SIGNALS = (SIGTERM, SIGINT, SIGUSR1, SIGKILL)
# those that draw no charts, which hang in forks
STAGES = ("train_features", "train_vae", "encode_latents", "train_diffusion")
ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
BOUND = 1e-4  # of weights after a resume on another number of ranks, relative to the largest of a tensor


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    return small_campaign(tmp_path_factory.mktemp("two"), 2)


def small_campaign(folder, count):
    pipeline = small_training.make_pipeline(folder / "source")
    return RankCampaign(pipeline, folder, small_training.NAME, count)


def check(tally, kind, record):
    record(tally.row(kind))
    assert tally.tried
    assert tally.failed == []
    assert tally.left == []
    assert tally.same == tally.tried == tally.explained


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_before_a_change_of_a_file(on_two, record, rank):
    tally = Tally()
    for number in spread(on_two.changes_of(rank), 12):
        on_two.kill_rank(rank, number, tally)
    check(tally, f"rank {rank} of 2 killed", record)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_rank_that_gets_a_signal(on_two, record, signum):
    """At the start, between two rows of the log, after a row, and in the last step."""
    tally = Tally()
    for rank in (0, 1):
        for step in (0, 1, 7, 10, STEPS - 1):
            on_two.signal_rank(rank, BATCH * step, signum, tally)
    check(tally, f"{signum.name} to one rank of 2", record)


def test_four_ranks_sum_gradients_in_the_same_order(tmp_path, record):
    """Of two ranks, the order does not matter."""
    runs, tally = small_campaign(tmp_path, 4), Tally()
    for rank in range(4):
        runs.signal_rank(rank, BATCH * (3 + 4 * rank), SIGKILL, tally)
    check(tally, "one rank of 4 killed", record)


@pytest.mark.parametrize("stage", STAGES)
def test_a_rank_of_a_real_stage_that_is_killed(tiny, tmp_path, record, stage):
    source = shutil.copytree(tiny, tmp_path / "source", symlinks=True)
    params = (source / "params.yaml").read_text()
    often = re.sub("checkpoint_seconds: .*", "checkpoint_seconds: 0", params)
    (source / "params.yaml").write_text(often)
    runs, tally = RankCampaign(source, tmp_path, stage), Tally()
    for rank in (0, 1):
        for number in spread(runs.changes_of(rank), 3):
            runs.kill_rank(rank, number, tally)
    check(tally, f"one rank of 2 killed, {stage}", record)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_other_numbers_of_ranks_continue_within_the_bound(on_two, record, before, after):
    """A signal between two rows of the log ends the first launch."""
    variables = {small_training.SIGNAL: f"0 {7 * BATCH} {int(SIGTERM)} self"}
    on_two.restore()
    assert on_two.launch(count=before, **variables).wait()[0] == [128 + SIGTERM] * before
    ends, text = on_two.launch(count=after).wait()
    assert ends == [0] * after, text
    found, expected = on_two.contents(on_two.project), on_two.expected
    assert found.keys() == expected.keys()
    weights, others = (load(files[small_training.OUTS[0]]) for files in (expected, found))
    error = max(np.abs(w - others[k]).max() / np.abs(w).max() for k, w in weights.items())
    print(f"{before} ranks, then {after}: {error:.1e}")
    assert error < BOUND


@pytest.mark.parametrize(
    ("signum", "target"),
    [(s, "launcher") for s in SIGNALS] + [(s, "self") for s in (SIGTERM, SIGKILL)],
    ids=lambda value: getattr(value, "name", value),
)
def test_signals_under_torchrun(on_two, record, signum, target):
    """To the launcher, as a terminal or a scheduler sends them, or to one of its processes."""
    tally = Tally()
    for rank, step in ((0, 7), (1, 12)):
        on_two.restore()
        variable = f"{rank} {BATCH * step} {int(signum)} {target}"
        ended = torchrun(on_two.project, 2, **{small_training.SIGNAL: variable})
        killed = signum == SIGKILL
        expected = (
            {-SIGKILL if target == "launcher" else 128 + SIGKILL, 1} if killed else {128 + signum}
        )
        assert processes_of(on_two.project) == []
        assert "frame #" not in ended.stderr  # of PyTorch's C++ code
        on_two.judge(
            f"{signum.name} to {target} at step {step}: {ended.returncode}",
            ended.returncode in expected,
            ended.stderr,
            tally,
        )
    check(tally, f"torchrun, {signum.name} to {'it' if target == 'launcher' else 'a rank'}", record)


@pytest.mark.parametrize("end_of_first", [SIGCONT, SIGKILL], ids=["finishes", "killed"])
def test_a_second_launch_waits_for_the_first(on_two, record, end_of_first):
    """The first one stops in a step, until the second waits; if it is killed then, that one continues."""
    on_two.restore()
    variables = {small_training.SIGNAL: f"0 {7 * BATCH} {int(SIGSTOP)} self"}
    first = on_two.launch(**variables)
    os.waitid(os.P_PID, first.processes[0], os.WSTOPPED | os.WNOWAIT)
    second = on_two.launch()
    while "another process is running this stage; waiting for it" not in second.text():
        assert os.waitid(os.P_PID, second.processes[0], ENDED) is None, second.text()
        time.sleep(0.01)
    os.kill(first.processes[0], end_of_first)
    ends, _ = first.wait()
    ends_of_second, text = second.wait()
    assert ends == ([0, 0] if end_of_first == SIGCONT else [-SIGKILL, 1])
    assert ends_of_second == [0, 0], text
    assert on_two.contents(on_two.project) == on_two.expected
    assert on_two.partial() == []
    row = Tally(tried=1, same=1, explained=1).row(f"two launches, the first {end_of_first.name}")
    record(row)
