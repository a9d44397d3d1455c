"""Encoder and decoder."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_autoencoder import make_network
from torch import nn

from edm2.params.vae import Vae
from edm2.vae.network import Attention, Autoencoder, Down, Norm, ResBlock, Up
from edm2.vae.wavelet import Wavelet


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    ("channel_mult", "downscale"), [((1,), 1), ((1, 2), 2), ((1, 2, 2), 4), ((2, 1, 3, 4), 8)]
)
def test_shapes(tiny: Callable[..., Vae], channel_mult, downscale: int, attention: bool) -> None:
    params = tiny(channel_mult=channel_mult, attention=attention, latent_channels=5)
    network, side = Autoencoder(params), 16 // downscale
    reconstruction, mean, _ = network(torch.randn(2, 3, 16, 16), torch.randn(2, 5, side, side))
    assert params.downscale == downscale
    assert mean.shape == (2, 5, side, side)
    assert reconstruction.shape == (2, 3, 16, 16)
    assert any(isinstance(m, Attention) for m in network.modules()) == attention


def test_the_decoder_has_one_more_residual_block_per_level(tiny: Callable[..., Vae]) -> None:
    network = Autoencoder(tiny(channel_mult=(1, 2, 4), res_blocks=2))
    count = [
        sum(isinstance(m, ResBlock) for m in part.modules())
        for part in (network.encoder, network.decoder)
    ]
    assert count == [3 * 2 + 2, 3 * 3 + 2]  # three levels, and two in the middle


def test_every_bias_starts_at_zero_and_every_parameter_gets_a_gradient(tiny) -> None:
    network = Autoencoder(tiny(attention=True))
    assert all((p == 0).all() for name, p in network.named_parameters() if name.endswith("bias"))
    reconstruction, mean, _ = network(torch.randn(2, 3, 8, 8), torch.randn(2, 2, 4, 4))
    (reconstruction.square().sum() + mean.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_noise_has_the_variance_of_params(tiny: Callable[..., Vae]) -> None:
    network = Autoencoder(tiny(variance=0.25))
    network.encoder, network.decoder = nn.Identity(), nn.Identity()
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    z, mean, _ = network(x, noise)
    assert torch.equal(mean, x)
    torch.testing.assert_close(z, x + 0.5 * noise)


@pytest.mark.parametrize("out_channels", [8, 16])
def test_a_residual_block_is_initialized_near_its_shortcut(out_channels: int) -> None:
    block, x = ResBlock(8, out_channels), torch.randn(2, 8, 6, 6)
    expected = x if out_channels == 8 else block.shortcut(x)
    assert (block(x) - expected).abs().max() < 1e-2
    assert not torch.equal(block(x), expected)
    std = 1e-4 / out_channels
    assert float(block.conv1.weight.detach().std()) == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize(
    ("tap", "expected"), [((0, 0), [[0, 2], [8, 10]]), ((2, 2), [[10, 0], [0, 0]])]
)
def test_down_pads_right_and_bottom(tap: tuple[int, int], expected: list[list[int]]) -> None:
    down = Down(1)
    nn.init.zeros_(down.conv.weight)
    down.conv.weight.data[0, 0, *tap] = 1  # picks x[2i + tap, 2j + tap]
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert down(x)[0, 0].tolist() == expected


def test_up_repeats_pixels() -> None:
    up = Up(1)
    nn.init.dirac_(up.conv.weight)
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert up(x).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


@pytest.mark.parametrize("channels", [4, 6, 8, 48, 128, 200, 512])
def test_norm_has_at_most_32_groups(channels: int) -> None:
    groups = Norm(channels).num_groups
    assert channels % groups == 0
    assert groups <= 32
    if channels in (128, 512):
        assert groups == 32


def test_groups_of_params_are_those_of_all_norms(tiny: Callable[..., Vae]) -> None:
    network = Autoencoder(tiny(channel_mult=(1, 2), attention=True, norm_groups=8))
    groups = [layer.num_groups for layer in network.modules() if isinstance(layer, Norm)]
    blocks = 2 * 1 + 2 + 2 * 2 + 2  # residual blocks of encoder and decoder
    assert groups == [8] * (2 * blocks + 2 + 2)  # two in each; attention; the last ones


def test_quant_convolutions_are_the_last_and_the_first_layer(tiny: Callable[..., Vae]) -> None:
    network = make_network(tiny(variance="learned", quant_convolutions=True))
    (*encoder, quant), (post_quant, *decoder) = network.encoder, network.decoder
    images, latents = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 4, 4)
    mixed = mix(quant, nn.Sequential(*encoder)(images))
    torch.testing.assert_close(network.encode(images)[0], mixed[:, :2])
    images = nn.Sequential(*decoder)(mix(post_quant, latents))
    torch.testing.assert_close(network.decoder(latents), images)


def mix(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Channels mixed at each pixel, by a sum."""
    mixed = torch.einsum("oc,nchw->nohw", conv.weight[:, :, 0, 0], x)
    return mixed + conv.bias.reshape(-1, 1, 1)


def test_norm_is_computed_in_fp32() -> None:
    x = (1000 + torch.randn(2, 8, 4, 4)).bfloat16()
    norm = Norm(8)
    y, values = norm(x), x.double().reshape(2, norm.num_groups, -1)
    mean, variance = values.mean(-1, keepdim=True), values.var(-1, keepdim=True, correction=0)
    expected = ((values - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    assert y.dtype == torch.bfloat16
    np.testing.assert_allclose(y.double().detach(), expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize(
    ("channels", "option", "heads"), [(8, None, 1), (128, None, 2), (128, 1, 1), (12, 3, 3)]
)
def test_attention_against_numpy(channels: int, option: int | None, heads: int) -> None:
    layer, x = Attention(channels, option), torch.randn(1, channels, 3, 2)

    def linear(conv: nn.Conv2d, x: np.ndarray) -> np.ndarray:
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        return weight[:, :, 0, 0] @ x + bias[:, None]

    pixels = layer.norm(x)[0].detach().numpy().reshape(channels, 6)
    q, k, v = np.split(linear(layer.qkv, pixels), 3)
    out, size = [], channels // heads
    for part in (slice(h * size, (h + 1) * size) for h in range(heads)):
        scores = np.exp(q[part].T @ k[part] / size**0.5)  # [query, key]
        out.append(v[part] @ (scores / scores.sum(axis=1, keepdims=True)).T)
    expected = x[0].numpy().reshape(channels, 6) + linear(layer.projection, np.concatenate(out))
    y = layer(x)[0].detach().numpy().reshape(channels, 6)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_the_projection_of_attention_is_initialized_small() -> None:
    weight = Attention(256).projection.weight
    assert float(weight.detach().std()) == pytest.approx(0.2 / 16, rel=0.05)


@pytest.mark.parametrize("resolution", [16, 32])
@pytest.mark.parametrize(
    ("channel_mult", "wavelet", "high_resolution", "downscale"),
    [
        ((1, 2), True, False, 2),
        ((1, 2, 2), True, False, 4),
        ((1,), False, True, 2),
        ((1, 2), False, True, 4),
        ((1, 2), True, True, 4),
        ((1, 2, 2), True, True, 8),
    ],
)
def test_shapes_with_wavelet_and_high_resolution(
    tiny, channel_mult, wavelet: bool, high_resolution: bool, downscale: int, resolution: int
) -> None:
    params = tiny(channel_mult=channel_mult, wavelet=wavelet, high_resolution=high_resolution)
    network, side = Autoencoder(params), resolution // downscale
    reconstruction, mean, std = network(
        torch.randn(2, 3, resolution, resolution), torch.randn(2, 2, side, side)
    )
    assert params.downscale == downscale
    assert mean.shape == std.shape == (2, 2, side, side)
    assert reconstruction.shape == (2, 3, resolution, resolution)
    halvings = sum(isinstance(m, Down) for m in network.encoder.modules())
    assert halvings == len(channel_mult) - 1 - wavelet
    doublings = sum(isinstance(m, Up) for m in network.decoder.modules())
    assert doublings == len(channel_mult) - 1 + high_resolution


def test_with_a_high_resolution_decoder_the_encoder_gets_averaged_images(tiny) -> None:
    """With the same weights, latents of 16×16 pixels are those of 8×8 pixels averaged by NumPy."""
    usual, high = (Autoencoder(tiny(high_resolution=high)) for high in (False, True))
    weights = dict(zip(high.encoder.state_dict(), usual.encoder.state_dict().values(), strict=True))
    high.encoder.load_state_dict(weights)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    halved = images.double().numpy().reshape(2, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    expected, _ = usual.encode(torch.from_numpy(halved).float())
    torch.testing.assert_close(high.encode(images)[0], expected)


def test_the_first_convolution_gets_wavelet_bands(tiny: Callable[..., Vae]) -> None:
    network, images = Autoencoder(tiny(wavelet=True)), torch.randn(1, 3, 8, 8)
    inputs = []
    network.encoder[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    network.encode(images)
    assert torch.equal(inputs[0], Wavelet(3)(images))


@pytest.mark.parametrize(
    ("wavelet", "high_resolution", "channels"),
    [(False, False, 3), (True, False, 12), (False, True, 3), (True, True, 12)],
)
def test_first_parameters_are_those_of_the_first_convolution(
    tiny: Callable[..., Vae], wavelet: bool, high_resolution: bool, channels: int
) -> None:
    network = Autoencoder(tiny(wavelet=wavelet, high_resolution=high_resolution))
    weight, bias = network.first_parameters()
    assert (weight.shape, bias.shape) == ((8, channels, 3, 3), (8,))
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert (weight is first.weight, bias is first.bias) == (True, True)


@pytest.mark.parametrize("quant_convolutions", [False, True])
def test_with_both_the_decoders_first_convolution_is_one_of_them(tiny, quant_convolutions) -> None:
    """It is the one from the latents to the width of the first level, here 2 and 16 channels."""
    network = Autoencoder(tiny(quant_convolutions=quant_convolutions))
    *encoder, weight, bias = network.first_parameters("both")
    assert [id(p) for p in encoder] == [id(p) for p in network.first_parameters("encoder")]
    assert (weight.shape, bias.shape) == ((16, 2, 3, 3), (16,))
    conv = network.decoder[1 if quant_convolutions else 0]
    assert (weight is conv.weight, bias is conv.bias) == (True, True)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"norm_groups": 3}, ["vae.norm_groups"]),
        ({"channel_mult": (1,), "wavelet": True}, ["vae.wavelet"]),
        ({"attention": True, "attention_heads": 3}, ["vae.attention_heads"]),
        ({"channels": 100, "attention": True}, ["vae.channels"]),
        (
            {"norm_groups": 7, "attention": True, "attention_heads": 5},
            ["vae.norm_groups", "vae.attention_heads"],
        ),
    ],
)
def test_options_that_no_network_can_have_are_all_named(tiny, changes, keys: list[str]) -> None:
    with pytest.raises(ValueError, match=": expected ") as error:
        Autoencoder(tiny(**changes))
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == keys


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_mult": (1, 2, 2)},
        {"channel_mult": (1, 2, 2), "wavelet": True},
        {"channel_mult": (1, 2), "high_resolution": True},
    ],
)
@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((1, 3, 10, 16), "(1, 3, 10, 16)"),
        ((1, 3, 16, 18), "multiples of 4"),
        ((1, 3, 0, 16), "multiples of 4"),
        ((1, 1, 16, 16), "[N, 3, H, W]"),
        ((1, 4, 16, 16), "[N, 3, H, W]"),
        ((3, 16, 16), "(3, 16, 16)"),
    ],
)
def test_images_that_the_network_cannot_take_are_refused(tiny, changes, shape, part) -> None:
    params = tiny(**changes)
    assert params.downscale == 4
    network = Autoencoder(params)
    for run in (network.encode, lambda images: network(images, torch.zeros(1, 2, 4, 4))):
        with pytest.raises(ValueError, match=re.escape(part)):
            run(torch.zeros(shape))


def test_integer_images_and_noise_of_another_shape_are_refused(tiny: Callable[..., Vae]) -> None:
    network, images = Autoencoder(tiny()), torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"torch\.uint8: expected floating point"):
        network.encode(images.to(torch.uint8))
    with pytest.raises(
        ValueError, match=r"noise of shape \(1, 2, 4, 4\): expected .*\(2, 2, 4, 4\)"
    ):
        network(images, torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("attention", [False, True])
def test_images_need_not_be_square(tiny: Callable[..., Vae], attention: bool) -> None:
    network = make_network(tiny(channel_mult=(1, 2, 2), attention=attention))
    images = torch.rand(2, 3, 8, 20) * 2 - 1
    reconstruction, mean, _ = network(images, torch.zeros(2, 2, 2, 5))
    assert (mean.shape, reconstruction.shape) == ((2, 2, 2, 5), images.shape)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_clamps_make_no_number_of_what_is_not_finite(tiny: Callable[..., Vae], value) -> None:
    network = Autoencoder(tiny(clamp=2.0, variance="learned"))
    moments = torch.tensor([value, 3.0, value, 0.0]).reshape(1, 4, 1, 1)
    network.encoder = FixedEncoder(moments)
    mean, std = network.encode(torch.zeros(1, 3, 8, 8))
    assert mean.isfinite().flatten().tolist() == [False, True]
    assert std.isfinite().flatten().tolist() == [False, True]


class FixedEncoder(nn.Module):
    """Returns the same moments for all images."""

    def __init__(self, *moments: torch.Tensor) -> None:
        super().__init__()
        self.moments = torch.cat(moments, dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.moments


def test_the_second_half_of_the_encoders_output_is_the_logarithm_of_a_learned_variance(
    tiny: Callable[..., Vae],
) -> None:
    network = Autoencoder(tiny(variance="learned"))
    assert network.encode(torch.zeros(2, 3, 8, 8))[0].shape == (2, 2, 4, 4)
    mean, std, noise = (
        torch.randn(2, 2, 4, 4),
        torch.rand(2, 2, 4, 4) + 0.1,
        torch.randn(2, 2, 4, 4),
    )
    network.encoder, network.decoder = FixedEncoder(mean, 2 * std.log()), nn.Identity()
    z, latent_mean, latent_std = network(torch.zeros(2, 3, 8, 8), noise)
    torch.testing.assert_close(latent_std, std)
    assert torch.equal(latent_mean, mean)
    torch.testing.assert_close(z, mean + std * noise)


def test_a_learned_variance_is_clamped(tiny: Callable[..., Vae]) -> None:
    network = Autoencoder(tiny(variance="learned"))
    extremes = torch.tensor([-1e6, -30.0, 0.0, 20.0, 1e6]).reshape(1, 1, 1, 5)
    network.encoder = FixedEncoder(torch.zeros(1, 1, 1, 5), extremes)
    _, std = network.encode(torch.zeros(1, 3, 8, 8))
    expected = np.exp([-15, -15, 0, 10, 10])
    np.testing.assert_allclose(std.flatten(), expected, rtol=1e-5)


def test_means_are_clamped_before_noise_is_added(tiny: Callable[..., Vae]) -> None:
    means = torch.tensor([-9.0, -2.0, 0.5, 2.5, 9.0]).reshape(1, 1, 1, 5)
    network = Autoencoder(tiny(clamp=2.0, variance=0.25))
    network.encoder, network.decoder = FixedEncoder(means), nn.Identity()
    z, mean, _ = network(torch.zeros(1, 3, 8, 8), torch.full((1, 1, 1, 5), 3.0))
    assert mean.flatten().tolist() == [-2.0, -2.0, 0.5, 2.0, 2.0]
    assert z.flatten().tolist() == [-0.5, -0.5, 2.0, 3.5, 3.5]
    unclamped = Autoencoder(tiny(clamp=None))
    unclamped.encoder = FixedEncoder(means)
    assert torch.equal(unclamped.encode(torch.zeros(1, 3, 8, 8))[0], means)


def test_with_variance_zero_latents_are_the_means(tiny: Callable[..., Vae]) -> None:
    network, images = Autoencoder(tiny(variance=0.0)), torch.randn(2, 3, 8, 8)
    noises = torch.randn(2, 2, 2, 4, 4)
    first, second = (network(images, noise) for noise in noises)
    assert torch.equal(first[0], second[0])
    assert not first[2].any()


def test_the_decoder_gets_the_transformed_latent(tiny: Callable[..., Vae]) -> None:
    network, x = Autoencoder(tiny(variance=1.0)), torch.randn(1, 3, 4, 4)
    network.encoder, network.decoder = nn.Identity(), nn.Identity()
    noise = torch.randn(1, 3, 4, 4)
    decoded, mean, _ = network(x, noise, lambda z: z[:, :, :2].flip(-1))
    assert torch.equal(decoded, (x + noise)[:, :, :2].flip(-1))
    assert torch.equal(mean, x)  # not transformed: the KL loss is of the whole latent
