"""A bar on a terminal, lines elsewhere."""

import io
import sys
from types import SimpleNamespace

import pytest

from edm2.runtime.log import NONFINITE_STEPS
from edm2.runtime.messages import say
from edm2.runtime.metrics import shown
from edm2.runtime.progress import Progress, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The test sets the time: clock.now."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("edm2.runtime.progress.time", clock)
    return clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_shows_rate_and_time_left(clock, capsys) -> None:
    progress = Progress("train", 400, "img", start=100)
    assert lines(capsys) == ["train: resuming at 100 of 400 img"]
    clock.now = 20.0
    progress.advance(50)  # 50 images in 20 s; 250 are left
    assert lines(capsys) == ["train: 150/400 img  2.5 img/s  100 s left"]


def test_a_note_is_shown_beside_the_rate(clock, capsys) -> None:
    progress = Progress("train", 400, "img")
    progress.note = "loss 0.25"
    clock.now = 20.0
    progress.advance(50)
    assert lines(capsys) == ["train: 50/400 img  2.5 img/s  140 s left  loss 0.25"]


def test_quiet_processes_print_nothing(clock, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDM2_QUIET", "1")
    progress = Progress("train", 400, "img", start=100)
    clock.now = 20.0
    progress.advance(50)
    progress.close()
    say("done")
    assert lines(capsys) == []


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({"train/loss": 0.25, "train/mse": 1.0, "train/nonfinite_gradients": 0.0}, "loss 0.25"),
        ({"train/mse": 0.12345, "train/kl": 2.0}, "mse 0.1235"),
        (
            {"train/loss": 1, "train/nonfinite_gradients": 7.5},
            "loss 1, 7.5 gradients a step not finite",
        ),
        (
            {"train/loss": float("nan"), NONFINITE_STEPS: 0.5},
            "loss nan, 50.00% of the steps not finite",
        ),
        ({"train/mse": 0.5, "held_out/psnr": 21.987}, "mse 0.5, held-out PSNR 21.99 dB"),
        ({}, ""),
    ],
)
def test_trainings_show_their_loss_and_what_is_not_finite(means, expected) -> None:
    assert shown(means) == expected


def test_lines_are_at_least_15_seconds_apart(clock, capsys) -> None:
    progress = Progress("train", 100, "img")
    for second in range(1, 61):
        clock.now = float(second)
        progress.advance(1)
    assert 2 <= len(lines(capsys)) <= 4  # in 60 s
    progress.close()
    assert [line.split("  ")[0] for line in lines(capsys)] == ["train: 60/100 img"]


def test_no_progress_is_no_division_by_zero(clock, capsys) -> None:
    progress = Progress("train", 100, "img")
    clock.now = 2.0
    progress.close()
    assert lines(capsys)[0].startswith("train: 0/100 img")


def test_other_ranks_print_nothing(clock, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    progress = Progress("train", 100, "img")
    clock.now = 100.0
    progress.advance(50)
    progress.close()
    assert lines(capsys) == []


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("edm2.runtime.progress.MIN_SECONDS", 0.0)
    progress = Progress("train", 10, "img", start=5)
    progress.advance(5)
    progress.close()
    assert "train" in terminal.getvalue()
    assert "\r" in terminal.getvalue()
    assert "10.0/10.0" in terminal.getvalue()


def test_track_yields_the_items_and_counts_them(clock, capsys) -> None:
    items = track(iter("abc"), "prepare", 3, "shard")
    assert next(items) == "a"
    clock.now = 2.0  # steps of less than a second print nothing
    assert list(items) == ["b", "c"]
    assert lines(capsys)[-1].startswith("prepare: 3/3 shard")
