"""`edm2 model summary`."""

import csv
from pathlib import Path

import pytest

from edm2 import reporting
from edm2.params.configs import CONFIGS

PAPER = Path(reporting.__file__).parent / "paper"


def printed(out):
    """The options, and the rows of the table by name: output, parameters, multiply-adds."""
    lines = [line for line in out.splitlines() if line.strip()]
    options = dict(line.split(" = ") for line in lines if " = " in line)
    table = [line.split() for line in lines if len(line.split()) == 4 and " = " not in line]
    return options, {name: (output, *map(number, rest)) for name, output, *rest in table[1:]}


def number(text):
    return int(text.replace(",", ""))


def paper_parameters(file, **row):
    """Number of parameters that the paper's authors published."""
    with (PAPER / file).open(newline="") as lines:
        found = [r for r in csv.DictReader(lines) if row.items() <= r.items()]
    assert len(found) == 1
    return int(found[0]["params"])


def test_parameters_of_a_size_are_the_papers(run):
    done = run("model", "summary", "G", "XS")
    assert (done.status, done.err) == (0, "")
    options, rows = printed(done.out)
    assert options["weight_norm"] == "forced"
    assert options["lr_ref"] == "0.012"  # Table 6, for XS
    output, parameters, multiply_adds = rows.pop("total")
    assert output == "4x64x64"
    assert parameters == paper_parameters("models.csv", dataset="imagenet-512", size="XS")
    assert parameters == sum(row[1] for row in rows.values())
    assert multiply_adds == sum(row[2] for row in rows.values())


@pytest.mark.parametrize("config", ["A", "F"])
def test_the_default_size_is_s(run, config):
    options, rows = printed(run("model", "summary", config).out)
    assert options["name"] == CONFIGS[config].name
    assert rows["total"][1] == paper_parameters("configs.csv", config=config)


def test_options_are_those_of_the_config(run):
    first, last = (printed(run("model", "summary", config, "XXS").out)[0] for config in "AG")
    assert (first["group_norm"], last["group_norm"]) == ("standard", "none")
    assert (first["attention"], last["attention"]) == ("dot", "cosine")
    assert first.keys() == last.keys()


def test_the_shape_can_be_set(run):
    shape = "--channels 8 --resolution 8 --in-channels 3 --classes 0 --channel-mult 1,2"
    done = run("model", "summary", "G", *shape.split(), "--res-blocks", 1, "--attention", "4")
    assert done.status == 0, done.err
    options, rows = printed(done.out)
    assert options["attention_resolutions"] == "(4,)"
    assert rows["total"][0] == "3x8x8"
    attention = {name for name in rows if name.endswith("attention")}
    assert {name.split("-")[1] for name in attention} == {"4x4"}
    assert not any("label" in name for name in rows)
    assert {name.split("-")[2] for name in rows if name.startswith("enc-4x4-block")} == {"block0"}
    assert rows["enc-8x8-conv"][0] == "8x8x8"


def test_a_larger_channel_count_makes_a_wider_network(run):
    narrow, wide = (
        printed(run("model", "summary", "G", "--channels", channels).out)[1]["total"][1]
        for channels in (64, 128)
    )
    assert narrow == paper_parameters("models.csv", dataset="imagenet-512", size="XXS")
    assert wide == paper_parameters("models.csv", dataset="imagenet-512", size="XS")


def test_size_and_channels_together_are_refused(run):
    done = run("model", "summary", "G", "S", "--channels", 64)
    assert (done.status, done.out) == (2, "")
    assert "SIZE" in done.err
    assert "--channels" in done.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["H"], "H"),
        (["G", "XXXL"], "XXXL"),
        (["G", "--channels", "0"], "--channels"),
        (["G", "--resolution", "0"], "--resolution"),
        (["G", "XXS", "--resolution", "60"], "--resolution"),  # halved three times: 7.5
        (["G", "--channels", "100"], "--channels"),  # heads of 64 channels
        (["G", "--classes", "-1"], "--classes"),
        (["G", "--channel-mult", "1,0"], "--channel-mult"),
        (["G", "--channel-mult", "1,x"], "--channel-mult"),
        (["G", "--res-blocks", "0"], "--res-blocks"),
    ],
)
def test_impossible_networks_are_refused(run, arguments, name):
    done = run("model", "summary", *arguments)
    assert (done.status, done.out) == (2, "")
    assert name in done.err
