"""The VAE as an `AutoencoderKL`, against diffusers itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from tiny_autoencoder import make_network

from edm2.data.normalization import Normalization
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.vae import Vae
from edm2.vae.codec import TrainedVae
from edm2.vae.diffusers_format import autoencoder_config, format_problems, to_diffusers
from edm2.vae.network import Autoencoder
from edm2.vae.stable_diffusion import StableDiffusionVae, load_autoencoder

NORMALIZATION = Normalization(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
BASE: dict[str, Any] = {"norm_groups": 4, "attention_heads": 1}


@pytest.fixture
def export(tiny: Callable[..., Vae], tmp_path: Path) -> Callable[..., tuple[Autoencoder, Any]]:
    """export(**changes): a network, and the one that diffusers loads from its files."""

    def call(**changes: Any) -> tuple[Autoencoder, Any]:
        params = tiny(**{**BASE, **changes})
        network = make_network(params).eval()
        assert not list(format_problems(network, params))
        config = autoencoder_config(network, params, 16, NORMALIZATION)
        (tmp_path / CONFIG).write_text(json.dumps(config))
        save_file(to_diffusers(network, params), tmp_path / WEIGHTS, {"format": "pt"})
        loaded, info = AutoencoderKL.from_pretrained(
            tmp_path, low_cpu_mem_usage=False, output_loading_info=True
        )
        assert not any(info.values())  # no missing, unexpected or mismatched tensors
        return network, loaded

    return call


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channel_mult": (1,), "variance": 0.25},
        {"channel_mult": (2, 1, 4), "res_blocks": 2, "variance": "learned"},
        {"attention": True, "quant_convolutions": True},
        {"attention": True, "quant_convolutions": True, "variance": "learned"},
        {"attention": True, "channels": 64, "norm_groups": 32},
        {"variance": 0.0, "quant_convolutions": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_diffusers_computes_the_same(export, changes: dict[str, Any]) -> None:
    """To the bit; else as near to the result in float64 as diffusers' own in float32: with attention, which
    diffusers computes by other operations, and with a constant variance behind a quant convolution, where
    its convolution has twice the channels.
    """
    network, loaded = export(**changes)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = network.encode(images)
    latents = mean + torch.randn_like(mean)
    ours, theirs = (mean, std, network.decoder(latents)), results(loaded, images, latents)
    assert not torch.allclose(mean[0], mean[1], atol=0.1)  # not constant
    if changes.get("attention") or changes.get("quant_convolutions"):
        exact = results(loaded.double(), images.double(), latents.double())
        for a, b, x in zip(ours, theirs, exact, strict=True):
            floor = 1e-6 if x is exact[1] else 1e-8  # diffusers has no variance of 0
            assert float((a - x).abs().max()) <= 3 * float((b - x).abs().max()) + floor
    else:
        assert torch.equal(ours[0], theirs[0])
        assert float((ours[1] - theirs[1]).abs().max()) <= 1e-6
        assert torch.equal(ours[2], theirs[2])


def results(network: Any, images: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Means, standard deviations and decoded images by diffusers."""
    distribution = network.encode(images).latent_dist
    return distribution.mean, distribution.std, network.decode(latents).sample


def test_the_factors_of_the_config_normalize_all_channels_together(export) -> None:
    """By hand: means 1 and 3 have mean 2 and variance 1; with variance 4 in each channel that makes 5."""
    config = export()[1].config
    assert config.shift_factor == pytest.approx(2.0)
    assert config.scaling_factor == pytest.approx(5**-0.5)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"wavelet": True}, "vae.wavelet"),
        ({"high_resolution": True}, "vae.high_resolution"),
        ({"clamp": 8.0}, "vae.clamp"),
        ({"norm_groups": None}, "vae.norm_groups"),
        ({"attention": True, "attention_heads": 2}, "vae.attention_heads"),
        ({"attention": True, "channels": 64, "attention_heads": None}, "vae.attention_heads"),
    ],
)
def test_an_option_that_does_not_fit_is_named(tiny, changes: dict[str, Any], key: str) -> None:
    params = tiny(**{**BASE, **changes})
    (problem,) = format_problems(Autoencoder(params), params)
    assert (problem.key, problem.value) == (key, changes[key.removeprefix("vae.")])


def test_all_options_that_do_not_fit_are_named_together(tiny: Callable[..., Vae]) -> None:
    params = tiny(wavelet=True, high_resolution=True, clamp=1.0, norm_groups=None)
    keys = [problem.key for problem in format_problems(Autoencoder(params), params)]
    assert keys == ["vae.wavelet", "vae.high_resolution", "vae.clamp", "vae.norm_groups"]


@pytest.mark.parametrize("channels", [128, 12])
def test_groups_that_no_option_sets_fit_if_they_are_the_same_everywhere(tiny, channels) -> None:
    """128 and 256 channels have 32 groups; 12 and 24 have 3 and 6, for which 3 is suggested."""
    params = tiny(channels=channels)
    problems = list(format_problems(Autoencoder(params), params))
    assert len(problems) == (channels == 12)
    assert all("to 3," in problem.fix for problem in problems)


def test_the_folder_of_the_codec_has_the_same_latents_and_images(
    export, tiny, tmp_path: Path
) -> None:
    """As `codec: {kind: stable_diffusion, path: FOLDER}`."""
    network, _ = export(attention=True)
    ours = TrainedVae(network, tiny(**BASE, attention=True))
    codec = StableDiffusionVae(
        load_autoencoder(tmp_path, torch.device("cpu")), "dataset", "nearest"
    )
    assert (codec.downscale, codec.channels) == (ours.downscale, ours.channels)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    for actual, expected in zip(codec.encode(pixels), ours.encode(pixels), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=2e-6)
    latents = ours.encode(pixels)[0]
    assert len(ours.decode(latents).unique()) > 100
    assert (codec.decode(latents).int() - ours.decode(latents).int()).abs().max() <= 1
