"""What `runtime.precision: auto` stands for."""

import pytest
import torch

from edm2.params import UserError
from edm2.runtime import precision
from edm2.runtime.device import DTYPES
from edm2.runtime.precision import measure, resolve_precision, with_precision

CPU = torch.device("cpu")
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Machine:
    """A device on which a run takes some milliseconds an image, and twice that the first time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
        self.milliseconds, self.now, self.runs = milliseconds, 0.0, []
        monkeypatch.setattr(precision.time, "perf_counter", lambda: self.now)

    def run(self, dtype: torch.dtype, images: int) -> None:
        run = NAMES[dtype], images
        self.now += images * self.milliseconds[run[0]] / 1000 * (1 if run in self.runs else 2)
        self.runs.append(run)


@pytest.fixture
def resolve(params, tmp_path):
    """resolve(machine, precision): what `runtime.precision` stands for on a machine."""

    def resolve(machine, precision="auto"):
        resolved = resolve_precision(
            with_precision(params, precision), tmp_path, CPU, lambda: machine.run, 64
        )
        assert with_precision(resolved, "fp32") == with_precision(params, "fp32")
        return resolved.runtime.precision

    return resolve


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"), [(41, 54, "fp32"), (54, 41, "bf16"), (42, 41, "fp32")]
)
def test_auto_is_the_fastest(monkeypatch, resolve, capsys, fp32, bf16, expected):
    """A difference of 2% is less than what measurements scatter."""
    assert resolve(Machine(monkeypatch, fp32=fp32, bf16=bf16)) == expected
    message = capsys.readouterr().out
    assert message.startswith(
        f"precision: {expected} (auto: fp32 {2 * fp32} ms, bf16 {2 * bf16} ms"
    )


@pytest.mark.parametrize(("cost", "limit", "images"), [(1, 64, 64), (10, 64, 8), (500, 64, 1)])
def test_images_are_doubled_until_a_run_takes_a_tenth_of_a_second(monkeypatch, cost, limit, images):
    """Or until there are no more. The first run of each kind takes twice as long and does not count."""
    machine = Machine(monkeypatch, fp32=cost, bf16=2 * cost)
    assert measure(machine.run, CPU, limit) == pytest.approx(
        {"fp32": images * cost, "bf16": 2 * images * cost}
    )
    measured = [run for run in machine.runs if run[1] == images]
    assert {name for name, _ in measured} == {"fp32", "bf16"}
    one_of_each = 3 * images * cost / 1000
    assert machine.now < 1.5 + 4 * one_of_each


def test_a_run_keeps_what_it_began_with(monkeypatch, resolve, capsys):
    """On another device, too, where another precision would be faster."""
    assert resolve(Machine(monkeypatch, fp32=9, bf16=4)) == "bf16"
    other = Machine(monkeypatch, fp32=4, bf16=9)
    assert resolve(other) == "bf16"
    assert other.runs == []
    first, second = capsys.readouterr().out.splitlines()
    assert "measured when this run began" not in first
    assert "measured when this run began" in second


def test_a_damaged_choice_is_refused(monkeypatch, resolve, tmp_path):
    machine = Machine(monkeypatch, fp32=9, bf16=4)
    resolve(machine)
    file = tmp_path / "precision.json"
    file.write_text(file.read_text().replace('"bf16",', '"fp32",'))
    with pytest.raises(UserError, match="precision.json"):
        resolve(machine)


@pytest.mark.parametrize("name", DTYPES)
def test_a_precision_that_params_name_is_not_measured(monkeypatch, resolve, tmp_path, name):
    assert resolve(Machine(monkeypatch), name) == name
    assert not list(tmp_path.iterdir())
