"""`edm2 model summary`."""

import csv
from pathlib import Path

import pytest

from edm2 import reporting
from edm2.params.configs import CONFIGS

pytestmark = pytest.mark.slow

PAPER = Path(reporting.__file__).parent / "paper"


def parse(out):
    """The options, and the rows of the table by name: output, parameters, multiply-adds."""
    _, options, table = out.strip().split("\n\n")
    header, *rows = (line.split() for line in table.splitlines())
    assert header == ["layer", "output", "parameters", "multiply-adds"]
    return (
        dict(line.split(" = ") for line in options.splitlines()),
        {name: (output, *map(number, counts)) for name, output, *counts in rows},
    )


def number(text):
    return int(text.replace(",", ""))


def paper_parameters(file, **row):
    """The number of parameters in the paper's table."""
    with (PAPER / file).open(newline="") as lines:
        (match,) = (r for r in csv.DictReader(lines) if row.items() <= r.items())
    return int(match["params"])


def test_the_summary_has_the_papers_number_of_parameters(run):
    result = run("model", "summary", "G", "XS")
    assert (result.status, result.err) == (0, "")
    options, rows = parse(result.out)
    assert options["weight_norm"] == "forced"
    assert options["lr_ref"] == "0.012"  # Table 6, for XS
    output, parameters, multiply_adds = rows.pop("total")
    assert output == "4x64x64"
    assert parameters == paper_parameters("models.csv", dataset="imagenet-512", size="XS")
    assert parameters == sum(row[1] for row in rows.values())
    assert multiply_adds == sum(row[2] for row in rows.values())


@pytest.mark.parametrize("config", ["A", "F"])
def test_the_default_size_is_s(run, config):
    options, rows = parse(run("model", "summary", config).out)
    assert options["name"] == CONFIGS[config].name
    assert rows["total"][1] == paper_parameters("configs.csv", config=config)


def test_the_summary_has_the_options_of_the_config(run):
    first, last = (parse(run("model", "summary", config, "XXS").out)[0] for config in "AG")
    assert (first["group_norm"], last["group_norm"]) == ("standard", "none")
    assert (first["attention"], last["attention"]) == ("dot", "cosine")
    assert first.keys() == last.keys()


def test_the_shape_can_be_set(run):
    shape = "--channels 8 --resolution 8 --in-channels 3 --classes 0 --channel-mult 1,2"
    result = run("model", "summary", "G", *shape.split(), "--res-blocks", 1, "--attention", "4")
    assert result.status == 0, result.err
    options, rows = parse(result.out)
    assert options["attention_resolutions"] == "(4,)"
    assert rows["total"][0] == "3x8x8"
    attention = {name for name in rows if name.endswith("attention")}
    assert {name.split("-")[1] for name in attention} == {"4x4"}
    assert not any("label" in name for name in rows)
    assert {name.split("-")[2] for name in rows if name.startswith("enc-4x4-block")} == {"block0"}
    assert rows["enc-8x8-conv"][0] == "8x8x8"


def test_a_larger_channel_count_makes_a_wider_network(run):
    narrow, wide = (
        parse(run("model", "summary", "G", "--channels", channels).out)[1]["total"][1]
        for channels in (64, 128)
    )
    assert narrow == paper_parameters("models.csv", dataset="imagenet-512", size="XXS")
    assert wide == paper_parameters("models.csv", dataset="imagenet-512", size="XS")


def test_size_and_channels_together_are_an_error(run):
    result = run("model", "summary", "G", "S", "--channels", 64)
    assert (result.status, result.out) == (2, "")
    assert "SIZE" in result.err
    assert "--channels" in result.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["H"], "H"),
        (["G", "XXXL"], "XXXL"),
        (["G", "--channels", "0"], "--channels"),
        (["G", "--resolution", "0"], "--resolution"),
        (["G", "XXS", "--resolution", "60"], "--resolution"),  # 60 / 2³ is not whole
        (["G", "--channels", "100"], "--channels"),  # heads of 64 channels
        (["G", "--classes", "-1"], "--classes"),
        (["G", "--channel-mult", "1,0"], "--channel-mult"),
        (["G", "--channel-mult", "1,x"], "--channel-mult"),
        (["G", "--res-blocks", "0"], "--res-blocks"),
    ],
)
def test_impossible_networks_are_an_error(run, arguments, name):
    result = run("model", "summary", *arguments)
    assert (result.status, result.out) == (2, "")
    assert name in result.err
