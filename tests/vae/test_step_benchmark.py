"""benchmarks/vae_step.py with a tiny step."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny import ROOT

from edm2.vae.training import VaeTask

pytestmark = pytest.mark.slow

TINY = ("--channels", "8", "--resolution", "32", "--batch", "2", "--warmup", "0", "--steps", "1")


@pytest.fixture
def vae_step(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("vae_step", ROOT / "benchmarks/vae_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(monkeypatch):
    """Metrics of all steps."""
    rows, step = [], VaeTask.step
    monkeypatch.setattr(VaeTask, "step", lambda *args: rows.append(dict(step(*args))) or rows[-1])
    return rows


def measure(vae_step, *arguments):
    return vae_step.measure(vae_step.argument_parser().parse_args([*TINY, *arguments]))


def test_a_row_has_the_losses_of_its_name(vae_step, rows):
    for name, losses in vae_step.LOSSES.items():
        result = measure(vae_step, "--losses", name, "--backbone", "classifier")
        assert result["images/s"] == pytest.approx(2 / result["s/step"])
        assert 0 < result["peak GiB"] < 64
        row = rows.pop()
        used = {key.removeprefix("gradient/") for key in row if key.startswith("gradient/")}
        assert used == {"mse", *losses}
        assert ("discriminator/loss" in row) == ("adversarial" in losses)
        assert all(torch.as_tensor(value).isfinite() for value in row.values())


@pytest.mark.parametrize("options", [("--precision", "bf16"), ("--microbatch", "1")])
def test_other_backbones_and_options_run(vae_step, rows, options):
    measure(vae_step, "--losses", "all", "--backbone", "vgg16", "--warmup", "1", *options)
    assert len(rows) == 2


def test_the_table_has_a_row_per_width_backbone_and_loss(vae_step, monkeypatch, capsys):
    """Each row is measured by a process; if that fails, the row has the last line of its stderr."""

    def run(command, **_):
        args = vae_step.argument_parser().parse_args(command[2:])
        if args.losses == "+ pooled":
            return SimpleNamespace(returncode=1, stderr="…\nout of memory\n")
        seconds = args.channels[0] * (1.5 if args.losses == "all" else 1.0)
        result = {"s/step": seconds, "images/s": 8 / seconds, "peak GiB": 0.5}
        return SimpleNamespace(returncode=0, stdout=f"note\n{json.dumps(result)}\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(
        sys, "argv", ["vae_step.py", "--channels", "8", "16", "--backbone", "vgg16"]
    )
    vae_step.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(vae_step.LOSSES)
    assert lines[0].split()[:2] == ["channels", "backbone"]
    assert [line for line in lines if "out of memory" in line and "+ pooled" in line] == lines[2::7]
    assert [line.split()[-1] for line in lines[7::7]] == ["1.5", "1.5"]
