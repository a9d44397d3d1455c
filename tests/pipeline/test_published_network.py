"""Published pickles as portable networks: weights, codec, constants, classes."""

import numpy as np
import pytest
import torch
from published_networks import LATENTS, random_denoiser, write_network
from published_pickles import EasyDict, Persistent, StabilityVAEEncoder, StandardRGBEncoder

from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.pipeline.published_network import read_published_network

SCALE, BIAS = [0.1, 0.2, 0.25, 0.5], [1.0, -0.5, 0.0, 0.25]


class OtherEncoder(Persistent):
    pass


@pytest.fixture
def write(tmp_path):
    """write(in_channels=3, **contents): the path of a pickle."""

    def call(in_channels=3, name="network.pkl", **contents):
        shape = LATENTS if in_channels == 4 else {"in_channels": in_channels}
        return write_network(tmp_path / name, random_denoiser(**shape), **contents)

    return call


@pytest.mark.parametrize("entry", ["ema", "net"])
def test_the_weights_are_those_of_the_file(tmp_path, entry):
    denoiser = random_denoiser(resolution=32, channel_mult=(1, 2, 2))
    network = read_published_network(write_network(tmp_path / "net.pkl", denoiser, entry))
    expected = denoiser.state_dict()
    actual = network.denoiser.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    assert {tensor.dtype for tensor in actual.values()} == {torch.float32}
    assert not any(p.requires_grad for p in network.denoiser.parameters())
    assert (network.classes, network.denoiser.shape) == (["0", "1", "2"], denoiser.shape)


def test_a_network_without_uncertainty_head_is_read(tmp_path):
    denoiser = random_denoiser()
    denoiser.head = None
    network = read_published_network(write_network(tmp_path / "net.pkl", denoiser))
    assert network.denoiser.head is None
    assert network.denoiser.state_dict().keys() == denoiser.state_dict().keys()


@pytest.mark.parametrize("kind", ["state", "arguments"])
def test_the_constants_of_latents_are_those_of_the_encoder(write, kind):
    """latents · scale + bias = (latents − mean) / std · 0.5."""
    mean, std = [-10.0, 2.5, 0.0, -0.5], [5.0, 2.5, 2.0, 1.0]
    encoder = StabilityVAEEncoder(SCALE, BIAS)
    if kind == "arguments":
        encoder = StabilityVAEEncoder(
            0, 0, raw_mean=np.float32(mean), raw_std=std, final_mean=0, final_std=0.5
        )
        del encoder.scale, encoder.bias
    network = read_published_network(write(4, encoder=encoder))
    assert network.normalization.mean.tolist() == pytest.approx(mean)
    assert network.normalization.std.tolist() == pytest.approx(std)
    assert (network.codec.kind, network.codec.normalization) == ("stable_diffusion", "paper")
    assert network.codec.rounding == "truncate"  # as the authors' encoder does


@pytest.mark.parametrize(
    ("channels", "kind", "std"),
    [(3, "rgb", [0.5, 0.5, 0.5]), (4, "stable_diffusion", [4.17, 4.62, 3.71, 3.28])],
)
def test_a_missing_encoder_is_inferred_and_named(write, capsys, channels, kind, std):
    network = read_published_network(write(channels, encoder=None))
    assert network.codec.kind == kind
    assert network.normalization.std.tolist() == pytest.approx(std)
    assert "has no encoder" in capsys.readouterr().out


def test_the_file_name_says_time_and_length(write):
    path = write(name="edm2-img64-s-1073741-0.075.pkl", use_fp16=True)
    provenance = read_published_network(path).provenance
    average = {"average": "power", "nimg": 2**30, "ema_length": 0.075}
    assert (provenance["average"], provenance["license"]) == (average, "cc-by-nc-sa-4.0")
    assert (provenance["published"], provenance["precision"]) == (True, "fp16")
    others = read_published_network(write(name="mine-0001048-0.100.pkl")).provenance
    assert others["average"]["nimg"] == 2**20
    assert (others["published"], others["license"], "precision" in others) == (False, None, False)


@pytest.mark.parametrize(
    ("channels", "contents", "message"),
    [
        (3, {"encoder": OtherEncoder()}, "encoder is OtherEncoder, expected one of StandardRGB"),
        (4, {"encoder": StandardRGBEncoder()}, "4 channels with the encoder StandardRGBEncoder"),
        (3, {"encoder": StabilityVAEEncoder(1, 0)}, "3 channels with the encoder StabilityVAE"),
        (5, {"encoder": None}, "has no encoder, and none is known for 5 channels"),
        (3, {"encoder": [1]}, "the entry encoder cannot be read"),
        (4, {"encoder": StabilityVAEEncoder(1, 0, vae_name="a/b")}, "VAE 'a/b', expected"),
        (4, {"encoder": StabilityVAEEncoder([1, 2], 0)}, "constants of its encoder cannot be read"),
        (4, {"encoder": StabilityVAEEncoder(1, 0, final_std="x")}, "constants of its encoder"),
        (4, {"encoder": StabilityVAEEncoder(0, 0)}, r"scale is not positive: scale \[0.0"),
        (4, {"encoder": StabilityVAEEncoder(1, np.nan)}, r"not finite.* bias \[nan"),
        (3, {"clip_act": 128}, "argument clip_act is 128, expected 256"),
        (3, {"dtype": torch.float16}, "no plain values: dtype"),
        (3, {"nested": EasyDict(a=1)}, "argument nested .* is unknown"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_file(write, channels, contents, message):
    path = write(channels, **contents)
    with pytest.raises(UserError, match=f"{path}: .*{message}"):
        read_published_network(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    denoiser = random_denoiser()
    denoiser.unet.out_conv.weight[0, 0, 0, 0] = torch.inf
    path = write_network(tmp_path / "net.pkl", denoiser)
    with pytest.raises(NotFiniteError, match=f"{path}: .*unet.out_conv.weight"):
        read_published_network(path)
