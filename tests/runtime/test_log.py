"""The local log."""

import json
import math
from pathlib import Path

import pytest

from edm2.params import UserError
from edm2.runtime.log import Log, read_log
from edm2.runtime.tracking import Run

ROWS = [{"nimg": 4, "loss": 0.5}, {"nimg": 8, "loss": 0.25}, {"nimg": 12, "loss": 0.125}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of ROWS."""
    write(tmp_path / "log", ROWS)
    return tmp_path / "log"


def write(path: Path, rows: list[dict[str, float]]) -> Run:
    run = Run(Log(path), None)
    for row in rows:
        run.log(int(row["nimg"]), {"loss": row["loss"]})
    return run


def test_rows_are_lines_of_json_with_checksums(tmp_path: Path) -> None:
    run = Run(Log(tmp_path / "log"), None)
    run.log(4, {"loss": 0.5})
    run.log(8, {"loss": 0.25, "lr": 1e-5})
    run.log(8, {})  # no metrics, no line
    run.log(50, {"fid": 2.0}, axis="ema_length_permille")
    rows = [
        {"nimg": 4, "loss": 0.5},
        {"nimg": 8, "loss": 0.25, "lr": 1e-5},
        {"ema_length_permille": 50, "fid": 2.0},
    ]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len({line.pop("sha256") for line in lines}) == 3
    assert lines == read_log(tmp_path / "log") == rows


def test_non_finite_values_are_written_as_text(tmp_path: Path) -> None:
    Run(Log(tmp_path / "log"), None).log(
        4, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    )
    (line,) = (tmp_path / "log").read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    strict.pop("sha256")
    assert strict == {"nimg": 4, "a": "nan", "b": "inf", "c": "-inf", "d": 1.0}


def test_an_incomplete_last_line_is_ignored(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert read_log(path) == ROWS[:2]
    path.unlink()
    assert read_log(path) == []


def test_a_row_after_an_incomplete_line_is_readable(path: Path, capsys) -> None:
    path.write_bytes(path.read_bytes()[:-5])
    write(path, ROWS[2:])
    assert f"{path}: its last line is incomplete" in capsys.readouterr().err
    assert read_log(path) == ROWS
    write(path, [])
    assert capsys.readouterr().err == ""


def test_every_flipped_bit_is_an_error_with_file_and_line(path: Path) -> None:
    content = path.read_bytes()
    for position in range(
        len(content) - 1
    ):  # without the last end of a line, which a kill may leave out
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        number = 1 + content[:position].count(b"\n")
        with pytest.raises(UserError, match=f"{path}: line {number}: .*remove it"):
            read_log(path)


@pytest.mark.parametrize(
    "order", [(1, 2), (0, 2), (1, 0, 2), (0, 1, 1, 2)], ids=["first", "second", "swap", "twice"]
)
def test_lines_that_are_lost_swapped_or_repeated_are_told(path: Path, order) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[k] for k in order))
    with pytest.raises(UserError, match=f"{path}: line [123]: .*not after the line"):
        Log(path)


def test_training_continues_with_the_rows_that_it_had(path: Path, capsys) -> None:
    log = Log(path)
    last = log.save()
    log.append(16, {"loss": 1.0}, "nimg")
    run = Run(Log(path), None)
    run.rollback(12, last)
    assert read_log(path) == ROWS
    run.rollback(8, write(path.with_name("shorter"), ROWS[:2]).save_log())  # an older checkpoint
    assert read_log(path) == ROWS[:2]
    with pytest.raises(UserError, match=f"{path}: ends before the checkpoint.*remove it"):
        run.rollback(8, last)
    path.unlink()  # as the error says
    run.rollback(8, last)
    assert f"{path}: does not exist" in capsys.readouterr().err


def test_the_log_of_another_run_is_told(path: Path) -> None:
    other = write(path.with_name("other"), [{**row, "loss": 1.0} for row in ROWS])
    with pytest.raises(UserError, match="of another run"):
        Run(Log(path), None).rollback(12, other.save_log())


def test_a_launch_drops_earlier_rows_on_other_axes_than_training_time(tmp_path: Path) -> None:
    for _ in range(2):
        run = Run(Log(tmp_path / "log"), None)
        run.log_summary({"psnr": 20.0})
        run.log(50, {"fid": 2.0}, axis="ema_length_permille")
    run.log(4, {"loss": 0.5})
    Log(tmp_path / "log")
    assert read_log(tmp_path / "log") == [{"nimg": 4, "loss": 0.5}]
