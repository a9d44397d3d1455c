"""The local log."""

import json
import math
from pathlib import Path

import pytest

from edm2.runtime.log import Log, read_log
from edm2.runtime.tracking import Run


def test_rows_are_lines_of_json(tmp_path: Path) -> None:
    run = Run(Log(tmp_path / "log"), None)
    run.log(4, {"loss": 0.5})
    run.log(8, {"loss": 0.25, "lr": 1e-5})
    run.log(8, {})  # no metrics, no line
    run.log(50, {"fid": 2.0}, axis="ema_length_permille")
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == [
        {"nimg": 4, "loss": 0.5},
        {"nimg": 8, "loss": 0.25, "lr": 1e-5},
        {"ema_length_permille": 50, "fid": 2.0},
    ]


def test_non_finite_values_are_written_as_text(tmp_path: Path) -> None:
    Run(Log(tmp_path / "log"), None).log(
        4, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    )
    (line,) = (tmp_path / "log").read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"nimg": 4, "a": "nan", "b": "inf", "c": "-inf", "d": 1.0}


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_log(path) == []
    path.write_text('{"nimg": 4}\n{"nimg": 8, "los')
    assert read_log(path) == [{"nimg": 4}]


def test_a_row_after_an_incomplete_line_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"nimg": 4}\n{"nimg": 8, "los')
    Run(Log(path), None).log(8, {"loss": 1.0})
    assert read_log(path) == [{"nimg": 4}, {"nimg": 8, "loss": 1.0}]


def test_a_launch_logs_other_axes_than_training_time_anew(tmp_path: Path) -> None:
    for _ in range(2):
        run = Run(Log(tmp_path / "log"), None)
        run.log_summary({"psnr": 20.0})
        run.log(50, {"fid": 2.0}, axis="ema_length_permille")
    run.log(4, {"loss": 0.5})
    Log(tmp_path / "log")
    assert read_log(tmp_path / "log") == [{"nimg": 4, "loss": 0.5}]
