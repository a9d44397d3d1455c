"""The layer table, against the paper's and PyTorch's own counts."""

import pytest
import torch

from edm2.diffusion import build_denoiser
from edm2.diffusion.summary import layer_table


def table(config="G", size="S", **shape):
    with torch.device("meta"):
        return layer_table(build_denoiser(config, size, **shape)).set_index("name")


@pytest.mark.parametrize(("size", "billions"), [("S", 100.82), ("XS", 44.95)])
def test_multiply_adds_are_those_of_the_reference(size, billions):
    """The paper's 102.2 and 45.5 without the element-wise operations that it counts, too."""
    assert round(table("G", size).multiply_adds["total"] / 1e9, 2) == billions


@pytest.mark.parametrize("config", "ABCDEFG")
def test_rows_add_up(config):
    found = table(config)
    rows = found.drop(index="total")
    assert found.parameters["total"] == rows.parameters.sum()
    assert found.multiply_adds["total"] == rows.multiply_adds.sum()
    with torch.device("meta"):
        unet = build_denoiser(config).unet
    assert found.parameters["total"] == sum(p.numel() for p in unet.parameters())


def test_single_rows_by_hand():
    """At XS: 3×3 convolutions of 128 channels on 64×64 pixels; attention of 64 pixels at 8×8."""
    rows = table("G", "XS")
    conv = rows.loc["enc-64x64-block0-conv0"]
    assert conv.output == "128x64x64"
    assert conv.parameters == 128 * 128 * 9
    assert conv.multiply_adds == conv.parameters * 64 * 64
    width = 512
    attention = rows.loc["enc-8x8-block0-attention"]
    assert (attention.parameters, attention.multiply_adds) == (0, 2 * width * 64 * 64)
    assert rows.parameters["enc-8x8-block0-gain"] == 1
    assert rows.parameters["map-label"] == 1000 * width


def test_unconditional_networks_and_other_shapes():
    rows = table(
        "C",
        None,
        channels=16,
        resolution=8,
        in_channels=3,
        num_classes=0,
        channel_mult=(1, 2),
        res_blocks=1,
        attention_resolutions=(4,),
    )
    assert "map-label" not in rows.index
    assert rows.output["total"] == "3x8x8"
