"""Errors of a network that is not the one of the params name what differs."""

from typing import Any

import pytest

from edm2.diffusion.denoiser import Denoiser, build_denoiser
from edm2.diffusion.identification import mismatch
from edm2.diffusion.setup import set_network
from edm2.params import UserError

SHAPE: dict[str, Any] = {
    "channels": 8,
    "resolution": 8,
    "in_channels": 4,
    "num_classes": 10,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "attention_resolutions": (4,),
}


def network(config: str = "G", **changes: Any) -> Denoiser:
    return build_denoiser(config, **{**SHAPE, **changes})  # type: ignore[arg-type]


def difference(config: str = "G", **changes: Any) -> str:
    """How a network of this config and shape differs from one of config G."""
    return mismatch(network(config, **changes).unet.state_dict(), network())


def test_the_same_network_has_no_mismatch():
    assert difference() == ""
    weights = network().unet.state_dict()
    assert not set_network(network(), weights).training


@pytest.mark.parametrize(
    ("config", "names"), [("A", "A or B"), ("B", "A or B"), ("E", "C or D or E"), ("F", "F")]
)
def test_networks_of_other_configs_are_recognized(config, names):
    assert f"config is {names}, expected G" in difference(config)
    # whatever their other attention resolutions are, which are other ones in config A
    assert f"config is {names}, expected G" in difference(config, attention_resolutions=(8,))


@pytest.mark.parametrize(
    ("changes", "param", "values"),
    [
        ({"channels": 16}, "channels", "(16, 32), expected (8, 16)"),
        ({"channel_mult": (1, 2, 2)}, "channel_mult", "(8, 16, 16), expected (8, 16)"),
        ({"res_blocks": 2}, "diffusion.res_blocks", "2, expected 1"),
        ({"resolution": 16}, "resolution of the latents", "16, expected 8"),
        ({"in_channels": 3}, "channels of the latents", "3, expected 4"),
        ({"num_classes": 0}, "diffusion.conditional", "0, expected 10"),
        ({"attention_resolutions": ()}, "diffusion.attention_resolutions", "(), expected (4,)"),
    ],
)
def test_the_params_that_differ_are_named_with_both_values(changes, param, values):
    text = difference(**changes)
    assert param in text
    assert values in text
    if "resolution" not in changes:
        assert text.count("expected") == 1


def test_tensors_of_something_else_are_told_with_an_example():
    weights = network().state_dict()  # with the prefix of the denoiser
    with pytest.raises(UserError, match=r"x\.safetensors: .*for example dec\.") as error:
        set_network(network(), weights, "x.safetensors")
    assert "\n" not in str(error.value)
