"""The VAE that a training starts from is compared with `vae` before anything runs."""

import inspect
import json
import shutil
from pathlib import Path

import pytest

from edm2.params.vae_init import DEFAULTS

FITTING = {  # an AutoencoderKL with the network of params.yaml and 8 groups
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
START = {"vae.init.path": "there", "vae.norm_groups": 8}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FITTING))
    return folder


def test_the_start_is_a_folder_of_a_vae(params, only_problem, there, tmp_path):
    problem = only_problem({"vae.init.parts": "decoder"})
    assert (problem.key, problem.value) == ("vae.init.parts", "decoder")
    assert params({**START, "vae.init.parts": "decoder"}).vae.init.parts == "decoder"
    problem = only_problem({**START, "vae.init.path": "nowhere"})
    assert (problem.key, problem.value) == ("vae.init.path", "nowhere")
    assert str(tmp_path / "nowhere") in problem.fix
    shutil.copytree(there, tmp_path / "models/vae")
    problem = only_problem({**START, "vae.init.path": "models/vae"})
    assert problem.key == "vae.init.path"
    assert "removed" in problem.allowed


@pytest.mark.parametrize(
    ("config", "key", "value", "words"),
    [
        ({"latent_channels": 8}, "vae.latent_channels", 4, "8"),
        (
            {"block_out_channels": [32, 64]},
            "vae.channels, vae.channel_mult",
            [32, 64, 64],
            "[32, 64]",
        ),
        ({"norm_num_groups": 32}, "vae.norm_groups", 8, "32"),
        ({"mid_block_add_attention": True}, "vae.attention", False, "True"),
    ],
)
def test_an_option_that_differs_is_named(only_problem, there, config, key, value, words):
    (there / "config.json").write_text(json.dumps({**FITTING, **config}))
    problem = only_problem(START)
    assert (problem.key, problem.value) == (key, value)
    assert problem.allowed.startswith(words)


def test_groups_that_differ_by_level_are_named(only_problem, there):
    """Without a number params.yaml has 8 groups of 32 channels, and 16 of 64."""
    problem = only_problem({"vae.init.path": "there"})
    assert (problem.key, problem.value) == ("vae.norm_groups", [8, 16])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({**FITTING, "act_fn": "gelu"}), "act_fn: 'gelu'"),
        (json.dumps({**FITTING, "use_quant_conv": True}), "use_post_quant_conv"),
        (json.dumps({**FITTING, "block_out_channels": "wide"}), ""),
        (json.dumps({**FITTING, "latent_channels": "4"}), "latent_channels"),
        ("{", ""),
        ("[]", ""),
        ("[" * 100_000, ""),
    ],
)
def test_another_kind_of_network_is_refused(only_problem, there, text, words):
    (there / "config.json").write_text(text)
    problem = only_problem(START)
    assert (problem.key, problem.value) == ("vae.init.path", "there")
    assert f"{there / 'config.json'}: " in problem.fix
    assert words in problem.fix


def test_a_vae_that_was_trained_here_is_compared(params, problems, only_problem, there):
    (there / "config.json").unlink()
    manifest, vae = there / "manifest.json", params({}).vae.model_dump(mode="json")
    del vae["norm_groups"]  # as older ones
    manifest.write_text(json.dumps({"kind": "trained", "vae": vae}))
    assert params({"vae.init.path": "there"}).vae.norm_groups is None
    changes = {"vae.latent_channels": 8, "vae.res_blocks": 2, "vae.variance": "learned"}
    found = problems({"vae.init.path": "there", **changes})
    assert {problem.key: problem.value for problem in found} == changes
    manifest.write_text(json.dumps({"kind": "rgb"}))
    assert "rgb" in only_problem(START).fix


def test_defaults_are_those_of_diffusers():
    from diffusers import AutoencoderKL

    parameters = inspect.signature(AutoencoderKL.__init__).parameters
    for key, value in DEFAULTS.items():
        default = parameters[key].default
        assert value in (default, *(default if isinstance(default, tuple) else ())), key
