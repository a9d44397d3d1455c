"""Presets: complete, valid, and with the published values."""

import re
from functools import cache

import pytest
from ruamel.yaml import YAML
from tiny import ROOT

from edm2.params import UserError, load
from edm2.params.presets import PRESETS, preset_text

DEFAULT = (ROOT / "params.yaml").read_text(encoding="utf-8")

# EDM2 (arXiv 2312.02696), Tables 2, 3, 5 and 6: million images, learning rate, dropout
TRAININGS = {
    "imagenet512-xxs": (2147.5, 0.0170, 0.00),
    "imagenet512-xs": (2147.5, 0.0120, 0.00),
    "imagenet512-s": (2147.5, 0.0100, 0.00),
    "imagenet512-m": (2147.5, 0.0090, 0.10),
    "imagenet512-l": (1879.0, 0.0080, 0.10),
    "imagenet512-xl": (1342.2, 0.0070, 0.10),
    "imagenet512-xxl": (939.5, 0.0065, 0.10),
    "imagenet64-s": (1073.7, 0.0100, 0.00),
    "imagenet64-m": (2147.5, 0.0090, 0.10),
    "imagenet64-l": (1073.7, 0.0080, 0.10),
    "imagenet64-xl": (671.1, 0.0070, 0.10),
}
# by dataset: P_mean, P_std, t_ref, resolution
DATASETS = {"imagenet512": (-0.4, 1.0, 70_000, 512), "imagenet64": (-0.8, 1.6, 35_000, 64)}
# autoguidance (arXiv 2406.02507), Table 1, lowest FID of each row: size, guide, its million images,
# EMA lengths of both, strength
PAIRS = {
    "autoguidance-imagenet512-s": ("S", "XS", 134.2, 0.070, 0.125, 2.10),
    "autoguidance-imagenet512-xxl": ("XXL", "M", 268.4, 0.075, 0.155, 2.05),
    "autoguidance-imagenet512-s-unconditional": ("S", "XS", 134.2, 0.070, 0.110, 2.85),
    "autoguidance-imagenet64-s": ("S", "XS", 134.2, 0.045, 0.110, 1.70),
}

LADDERS = {"ladder-digits": 5, "ladder-photos": 3}  # seeds of a config


@pytest.fixture(scope="module")
def load_preset(tmp_path_factory):
    """Load a preset as it is printed, except for the path of images; outside of a launch."""
    folder = tmp_path_factory.mktemp("presets")

    @cache
    def load_preset(name):
        text = re.sub(r"(path: ).+( # EDIT)", rf"\g<1>{folder}\2", preset_text(name))
        (folder / "params.yaml").write_text(text, encoding="utf-8")
        return load(folder / "params.yaml")

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        yield load_preset


def test_there_is_a_preset_for_each_published_training():
    assert set(PRESETS) == {"digits", "photos", "folder", *LADDERS, *TRAININGS, *PAIRS}


def test_digits_are_the_params_of_the_repository():
    assert preset_text("digits") == DEFAULT, "cp params.yaml edm2/params/presets/digits.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_and_valid(load_preset, name):
    params = load_preset(name)
    own_images = params.dataset.path is not None
    assert ("EDIT" in preset_text(name)) == own_images
    assert params.runtime.checkpoint_seconds == (900 if own_images else 20)


@pytest.mark.parametrize("name", LADDERS)
def test_configs_of_a_ladder_differ_only_in_their_learning_rates(load_preset, name):
    params = load_preset(name)
    assert "".join(params.configs) == "ABCDEFG"
    assert len(params.seeds) == LADDERS[name]
    assert params.evaluation.seed_blocks >= 2  # to choose EMA lengths on other samples
    for config in params.configs:
        changes = {"lr_ref": params.resolved(config).lr_ref}
        assert params.diffusion.per_config[config] == changes


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_have_the_published_values(load_preset, name):
    params = load_preset(name)
    config, (mimg, rate, dropout) = params.resolved("G"), TRAININGS[name]
    dataset, _, size = name.partition("-")
    assert params.diffusion.size == size.upper()
    assert round(params.diffusion.duration_nimg / 1e6, 1) == mimg
    assert (config.lr_ref, config.dropout, config.batch) == (rate, dropout, 2048)
    values = (config.p_mean, config.p_std, config.lr_decay_batches, params.dataset.resolution)
    assert values == DATASETS[dataset]
    assert (config.lr_rampup_nimg, config.adam_beta2) == (10_000_000, 0.99)
    assert params.ema.ema_lengths == (0.05, 0.10)
    assert params.guidance.guide == "none"


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_have_the_published_values(load_preset, name):
    params = load_preset(name)
    size, guide_size, guide_mimg, length, guide_length, strength = PAIRS[name]
    guide = params.guide_of("G").diffusion
    assert (params.diffusion.size, guide.size) == (size, guide_size)
    assert round(guide.duration_nimg / 1e6, 1) == guide_mimg
    unconditional = name.endswith("unconditional")
    assert params.diffusion.conditional == guide.conditional == (not unconditional)
    assert params.sweep.ema_lengths == (length,)
    assert params.guidance.ema_length == guide_length
    assert params.guidance.strength == (1.0, strength)


@pytest.mark.parametrize("name", ["folder", "imagenet512-s"])
def test_comments_and_other_fields_are_kept(name):
    text = preset_text(name)
    before, after = (YAML(typ="safe").load(t) for t in (DEFAULT, text))
    assert after["tracking"] == {**before["tracking"], "log_model": name == "folder"}
    assert after["guidance"] == before["guidance"]
    assert text.count("#") >= DEFAULT.count("#")
    assert "the best of a coarse search on the digits" not in text
    blank_lines = [t.splitlines().count("") for t in (DEFAULT, text)]
    assert blank_lines[0] == blank_lines[1]


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UserError) as error:
        preset_text("imagenet-512-s")
    assert "imagenet512-s" in str(error.value)
