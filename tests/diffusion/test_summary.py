"""The layer table, compared with known counts and PyTorch's own."""

import pytest
import torch

from edm2.diffusion import build_denoiser
from edm2.diffusion.summary import layer_table

pytestmark = pytest.mark.slow


def on_meta(config="G", size="S", **shape):
    with torch.device("meta"):
        return build_denoiser(config, size, **shape)


def table(config="G", size="S", **shape):
    """Rows by name, and their total."""
    rows, total = layer_table(on_meta(config, size, **shape))
    by_name = {row.name: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name, total


@pytest.mark.parametrize(("size", "billions"), [("S", 100.82), ("XS", 44.95)])
def test_multiply_adds_are_those_of_the_reference(size, billions):
    """The paper has 102.2 and 45.5, as it also counts element-wise operations."""
    _, total = table("G", size)
    assert round(total.multiply_adds / 1e9, 2) == billions


@pytest.mark.parametrize("config", "ABCDEFG")
def test_rows_add_up(config):
    rows, total = table(config)
    assert total.multiply_adds == sum(row.multiply_adds for row in rows.values())
    assert total.parameters == sum(row.parameters for row in rows.values())
    assert total.parameters == sum(p.numel() for p in on_meta(config).unet.parameters())


def test_single_rows_by_hand():
    """At XS: 3×3 convolutions of 128 channels on 64×64 pixels; attention of 64 pixels at 8×8."""
    rows, _ = table("G", "XS")
    conv = rows["enc-64x64-block0-conv0"]
    assert conv.output_shape == (128, 64, 64)
    assert conv.parameters == 128 * 128 * 9
    assert conv.multiply_adds == conv.parameters * 64 * 64
    width = 512
    attention = rows["enc-8x8-block0-attention"]
    assert (attention.parameters, attention.multiply_adds) == (0, 2 * width * 64 * 64)
    assert rows["enc-8x8-block0-gain"].parameters == 1
    assert rows["map-label"].parameters == 1000 * width


def test_unconditional_networks_and_other_shapes():
    rows, total = table(
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
    assert "map-label" not in rows
    assert total.output_shape == (3, 8, 8)
