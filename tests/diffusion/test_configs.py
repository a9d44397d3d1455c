"""Configs and sizes compared with the paper's tables (edm2/reporting/paper)."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch

import edm2
from edm2.diffusion import build_denoiser
from edm2.diffusion.blocks import Attention
from edm2.params.configs import CONFIGS
from edm2.params.sizes import SIZES

PAPER = Path(edm2.__file__).parent / "reporting" / "paper"
PAPER_CONFIGS = pd.read_csv(PAPER / "configs.csv").set_index("config")
MODELS = pd.read_csv(PAPER / "models.csv")
LATENT = MODELS[MODELS.dataset == "imagenet-512"].set_index("size")
PIXEL = MODELS[MODELS.dataset == "imagenet-64"].set_index("size")


@cache
def on_meta(config, size="S", **shape):
    with torch.device("meta"):
        return build_denoiser(config, size, **shape).unet


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_the_tables_list_seven_configs_and_seven_sizes():
    assert list(PAPER_CONFIGS.index) == list(CONFIGS) == list("ABCDEFG")
    assert list(LATENT.index) == list(SIZES)


@pytest.mark.parametrize("config", PAPER_CONFIGS.index)
def test_parameters_and_attention_blocks_of_each_config(config):
    network = on_meta(config)
    attention = [m for m in network.modules() if isinstance(m, Attention)]
    assert parameters(network) == PAPER_CONFIGS.params[config]
    assert len(attention) == PAPER_CONFIGS.attention_blocks[config]


@pytest.mark.parametrize("size", LATENT.index)
def test_parameters_of_each_size_of_g(size):
    assert parameters(on_meta("G", size)) == LATENT.params[size]


@pytest.mark.parametrize("size", PIXEL.index)
def test_parameters_of_g_on_rgb_images_in_millions(size):
    millions = parameters(on_meta("G", size, in_channels=3)) / 1e6
    assert round(millions, 1) == PIXEL.mparams[size]


def test_the_first_decoder_block_has_attention_at_every_resolution():
    """At 32×32 the listed 16×16 and 8×8 are the levels of 256 and 384 channels, not 384 and 512. An
    attention of w channels has 4w² parameters; there are seven in a level, and that of `in0`.
    """
    expected = LATENT.params["XS"] + 7 * 4 * (256**2 - 512**2)
    assert parameters(on_meta("G", "XS", resolution=32)) == expected == 119_208_101
    for config in "AG":
        network = on_meta(config, attention_resolutions=())
        attention = [name for name, m in network.named_modules() if isinstance(m, Attention)]
        assert attention == ["dec.8x8-in0.attention"]


@pytest.mark.parametrize("config", CONFIGS)
def test_width_of_the_embedding(config):
    """Off the paper's shapes: four times the first level in A and B, later the widest level."""
    network = on_meta(config, channel_mult=(1, 2))
    assert len(network.map.layer0.weight) == 192 * (4 if config in "AB" else 2)


@pytest.mark.parametrize("config", PAPER_CONFIGS.index)
def test_training_numbers_of_each_config(config):
    paper, options = PAPER_CONFIGS.loc[config], CONFIGS[config]
    names = [
        "name",
        "batch",
        "lr_ref",
        "lr_decay_batches",
        "p_mean",
        "p_std",
        "adam_beta2",
        "loss_scaling",
        "dropout",
    ]
    assert {key: getattr(options, key) for key in names} == {key: paper[key] for key in names}
    assert options.lr_rampup_nimg == paper.lr_rampup_mimg * 1e6
    assert options.attention_resolutions == tuple(map(int, paper.attention_resolutions.split(";")))


@pytest.mark.parametrize("size", LATENT.index)
def test_numbers_of_each_size(size):
    paper = LATENT.loc[size]
    assert vars(SIZES[size]) == {key: paper[key] for key in ("channels", "lr_ref", "dropout")}
    assert on_meta("G", size).config.dropout == paper.dropout


def test_each_config_changes_only_the_options_that_the_paper_changes():
    changes = {
        "B": {
            "uncertainty",
            "average",
            "attention_resolutions",
            "batch",
            "lr_ref",
            "adam_beta2",
            "p_mean",
            "p_std",
        },
        "C": {
            "noise_embedding",
            "bias",
            "ones_channel",
            "scaled_labels",
            "group_norm",
            "attention",
            "attention_fp32",
            "initialization",
        },
        "D": {"initialization", "weight_norm", "lr_ref", "loss_scaling"},
        "E": {"weight_norm", "lr_decay_batches"},
        "F": {"group_norm", "pixel_norm", "output_silu", "embedding_layers"},
        "G": {"noise_embedding", "magnitude_preserving", "dropout"},
    }
    for old_name, new_name in pairwise("ABCDEFG"):
        old, new = vars(CONFIGS[old_name]), vars(CONFIGS[new_name])
        assert {key for key in old if old[key] != new[key]} - {"name"} == changes[new_name]


def test_blocks_have_the_names_of_the_paper():
    """In the order of Figure 16, with attention at 16×16 and 8×8."""
    network = on_meta("G")
    sides = [64, 32, 16, 8]
    blocks = ("block0", "block1", "block2", "block3")
    first = dict.fromkeys(sides, ("up",)) | {8: ("in0", "in1")}
    encoder = [
        f"{side}x{side}-{name}"
        for side in sides
        for name in ("conv" if side == 64 else "down", *blocks[:3])
    ]
    decoder = [f"{side}x{side}-{name}" for side in sides[::-1] for name in (*first[side], *blocks)]
    assert list(network.enc) == encoder
    assert list(network.dec) == decoder
    with_attention = {
        name
        for name, m in (*network.enc.items(), *network.dec.items())
        if getattr(m, "attention", None) is not None
    }
    expected = {n for n in {*encoder, *decoder} if n.startswith(("16", "8")) and "-block" in n}
    assert with_attention == expected | {"8x8-in0"}


@pytest.mark.parametrize(
    ("arguments", "value", "also"),
    [
        (("H",), "'H'", ", ".join(CONFIGS)),
        (("G", "small"), "'small'", ", ".join(SIZES)),
        (("G", "S", 192), "'S'", "192"),  # two widths
    ],
)
def test_build_denoiser_rejects_unknown_names_and_two_widths(arguments, value, also):
    with pytest.raises(ValueError, match=value) as error:
        build_denoiser(*arguments)
    assert also in str(error.value)
