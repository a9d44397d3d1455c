"""The trained VAE as a codec."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edm2.params import UserError
from edm2.params.vae import Vae
from edm2.vae.codec import TrainedVae, load_vae, save_vae
from edm2.vae.network import Autoencoder

CPU = torch.device("cpu")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)


def test_shapes_and_types_of_both_sides(tiny: Callable[..., Vae], pixels: torch.Tensor) -> None:
    params = tiny(channel_mult=(1, 1, 1), latent_channels=5)
    codec = TrainedVae(Autoencoder(params), params)
    assert (codec.downscale, codec.channels) == (4, 5)
    mean, std = codec.encode(pixels)
    assert mean.shape == std.shape == (3, 5, 2, 2)
    assert mean.dtype == std.dtype == torch.float32
    images = codec.decode(mean)
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert not mean.requires_grad


def test_std_is_the_root_of_the_variance(tiny: Callable[..., Vae], pixels: torch.Tensor) -> None:
    params = tiny(variance=0.09)
    _, std = TrainedVae(Autoencoder(params), params).encode(pixels)
    torch.testing.assert_close(std, torch.full_like(std, 0.3))


def test_values_run_from_minus_one_to_one_inside(tiny, pixels: torch.Tensor) -> None:
    params = tiny()
    network = Autoencoder(params)
    network.encoder, network.decoder = nn.Identity(), nn.Identity()
    codec = TrainedVae(network, params)
    mean, _ = codec.encode(pixels)
    torch.testing.assert_close(mean, pixels / 127.5 - 1)
    assert torch.equal(codec.decode(mean), pixels)
    assert codec.decode(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_saved_codec_is_the_same(tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    params = tiny(attention=True, variance=0.2)
    network = Autoencoder(params)
    save_vae(network, params, tmp_path / "vae", psnr=20.0)
    before, after = TrainedVae(network, params), load_vae(tmp_path / "vae", CPU)
    for a, b in zip(before.encode(pixels), after.encode(pixels), strict=True):
        assert torch.equal(a, b)
    latents = torch.randn(2, 2, 4, 4)
    assert torch.equal(before.decode(latents), after.decode(latents))
    assert not any(p.requires_grad for p in after.network.parameters())


def test_damaged_weights_are_refused(tiny: Callable[..., Vae], tmp_path: Path) -> None:
    save_vae(Autoencoder(tiny()), tiny(), tmp_path)
    path = tmp_path / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=path.name):
        load_vae(tmp_path, CPU)
