"""The codecs: the trained VAE and pixel space; saving and loading."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_autoencoder import make_network
from torch import nn

from edm2.params import UserError, load
from edm2.params.codec import CodecChoice
from edm2.params.errors import NotFiniteError
from edm2.params.vae import Vae
from edm2.runtime.manifest import read_manifest, write_manifest
from edm2.vae.codec import Codec, Rgb, TrainedVae, load_codec, save_vae
from edm2.vae.network import Autoencoder
from edm2.vae.published import save_codec

CPU = torch.device("cpu")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)


@pytest.fixture
def choice() -> CodecChoice:
    return load(Path(__file__).parents[2] / "params.yaml").codec


def test_shapes_and_dtypes_of_latents_and_images(
    tiny: Callable[..., Vae], pixels: torch.Tensor
) -> None:
    params = tiny(channel_mult=(1, 1, 1), latent_channels=5)
    codec = TrainedVae(Autoencoder(params), params)
    assert (codec.downscale, codec.channels, codec.normalization) == (4, 5, None)
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


def test_the_network_gets_and_gives_images_in_minus_one_to_one(tiny, pixels: torch.Tensor) -> None:
    params = tiny(latent_channels=3)
    network = Autoencoder(params)
    network.encoder, network.decoder = nn.Identity(), nn.Identity()
    codec = TrainedVae(network, params)
    mean, _ = codec.encode(pixels)
    torch.testing.assert_close(mean, pixels / 127.5 - 1)
    assert torch.equal(codec.decode(mean), pixels)
    extremes = torch.tensor([-3.0, 3.0, -1.0, 1.0, -1.1, 1.1]).reshape(1, 3, 1, 2)
    assert codec.decode(extremes).flatten().tolist() == [0, 255] * 3


@pytest.fixture(params=["trained", "rgb"])
def codec(request: pytest.FixtureRequest, tiny) -> Codec:
    return (
        TrainedVae(make_network(tiny()), tiny()) if request.param == "trained" else Rgb("dataset")
    )


def test_gray_images_are_rgb_images_of_three_equal_channels(codec: Codec) -> None:
    gray = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    mean, std = codec.encode(gray)
    for value, expected in zip((mean, std), codec.encode(gray.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(value, expected)
    assert codec.decode(mean).shape == (2, 3, 8, 8)


def test_latents_in_other_precisions_are_decoded(codec: Codec) -> None:
    mean, _ = codec.encode(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        expected = codec.decode(mean.to(dtype).float())
        assert torch.equal(codec.decode(mean.to(dtype)), expected)


def test_images_and_latents_of_another_type_or_shape_are_refused(codec: Codec) -> None:
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for images, part in (
        (pixels / 127.5 - 1, "torch.float32: expected torch.uint8"),
        (pixels.int(), "torch.int32: expected torch.uint8"),
        (pixels[0], "(3, 8, 8): expected [N, 3, H, W]"),
        (pixels[:, :2], "(2, 2, 8, 8): expected"),
        (pixels[:, :, :0], "(2, 3, 0, 8): expected"),
        (pixels.repeat(1, 2, 1, 1)[:, :4], "alpha"),
    ):
        with pytest.raises(ValueError, match=re.escape(part)):
            codec.encode(images)
    if codec.downscale == 2:
        with pytest.raises(ValueError, match="multiples of 2"):
            codec.encode(pixels[:, :, :7])
        for latents in (
            torch.zeros(1, 3, 4, 4),
            torch.zeros(2, 4, 4),
            torch.zeros(1, 2, 4, 4).int(),
        ):
            with pytest.raises(ValueError, match=r"expected floating point \[N, 2, h, w\]"):
                codec.decode(latents)


def test_large_images_are_split_into_small_batches(tiny, pixels: torch.Tensor, monkeypatch) -> None:
    """The results are those of one batch."""
    params = tiny()
    network = Autoencoder(params)
    codec = TrainedVae(network, params)
    mean, _ = codec.encode(pixels)
    images, batch_sizes = codec.decode(mean), []
    for module in (network.encoder, network.decoder):
        module.register_forward_pre_hook(lambda _, inputs: batch_sizes.append(len(inputs[0])))
    monkeypatch.setattr("edm2.data.images.MAX_BATCH_PIXELS", 2 * 8**2)
    torch.testing.assert_close(codec.encode(pixels)[0], mean)
    assert (codec.decode(mean).int() - images.int()).abs().max() <= 1
    assert batch_sizes == [2, 1, 2, 1]


def test_a_saved_codec_is_loaded_unchanged(tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    params = tiny(attention=True, variance=0.2)
    network = Autoencoder(params)
    save_vae(network, params, tmp_path / "vae", psnr=20.0)
    before, after = TrainedVae(network, params), load_codec(tmp_path / "vae", CPU)
    for a, b in zip(before.encode(pixels), after.encode(pixels), strict=True):
        assert torch.equal(a, b)
    latents = torch.randn(2, 2, 4, 4)
    assert torch.equal(before.decode(latents), after.decode(latents))
    assert not any(p.requires_grad for p in after.network.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"wavelet": True},
        {"high_resolution": True},
        {"variance": "learned", "clamp": 0.5},
        {"norm_groups": 1, "quant_convolutions": True},
        {"attention": True, "attention_heads": 4},
        {"wavelet": True, "high_resolution": True, "attention": True, "variance": 0.0},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_saved_codecs_of_all_options_are_loaded_unchanged(tiny, tmp_path: Path, changes) -> None:
    params, pixels = tiny(**changes), torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    network = make_network(params)
    save_vae(network, params, tmp_path / "vae")
    before, after = TrainedVae(network, params), load_codec(tmp_path / "vae", CPU)
    side = 16 // (4 if params.high_resolution else 2)
    assert (after.downscale, after.channels) == (16 // side, 2)
    mean, std = after.encode(pixels)
    assert mean.shape == std.shape == (3, 2, side, side)
    for a, b in zip(before.encode(pixels), (mean, std), strict=True):
        assert torch.equal(a, b)
    decoded = after.decode(mean)
    assert decoded.shape == (3, 3, 16, 16)
    assert torch.equal(decoded, before.decode(mean))
    assert (len(std.unique()) > 1) == (params.variance == "learned")
    if params.clamp is not None:
        assert float(mean.abs().max()) == params.clamp


def test_weights_that_are_not_finite_are_refused(tiny, tmp_path: Path) -> None:
    network = Autoencoder(tiny())
    name, parameter = next(iter(network.named_parameters()))
    parameter.data.view(-1)[0] = torch.nan
    save_vae(network, tiny(), tmp_path)
    with pytest.raises(NotFiniteError, match=f"tensor {name} of the VAE: 1 of"):
        load_codec(tmp_path, CPU)


def test_a_vae_of_before_some_options_is_loaded(tiny, pixels, tmp_path: Path) -> None:
    """Its manifest does not have them."""
    network, params = make_network(tiny()), tiny()
    save_vae(network, params, tmp_path)
    tree = params.model_dump(mode="json")
    for option in (
        "init",
        "norm_groups",
        "attention_heads",
        "quant_convolutions",
        "lr_input_layers",
    ):
        del tree[option]
    write_manifest(tmp_path, kind="trained", vae=tree)
    mean = load_codec(tmp_path, CPU).encode(pixels)[0]
    assert torch.equal(mean, TrainedVae(network, params).encode(pixels)[0])


@pytest.mark.parametrize("end", [b"", b"?"], ids=["truncated", "changed"])
def test_damaged_weights_are_named(tiny: Callable[..., Vae], tmp_path: Path, end: bytes) -> None:
    save_vae(Autoencoder(tiny()), tiny(), tmp_path)
    path = tmp_path / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + end)
    with pytest.raises(UserError, match=path.name):
        load_codec(tmp_path, CPU)


def test_in_pixel_space_latents_are_the_pixels() -> None:
    codec = Rgb("dataset")
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    mean, std = codec.encode(pixels)
    assert (codec.downscale, codec.channels) == (1, 3)
    assert mean.dtype == std.dtype == torch.float32
    assert (mean.min(), mean.max()) == (-1, 1)
    torch.testing.assert_close(mean[0, 0, 0, 1], torch.tensor(1 / 127.5 - 1))
    assert torch.equal(std, torch.zeros(1, 3, 16, 16))
    assert torch.equal(codec.decode(mean.half().float()), pixels)  # shards store latents in 16 bits
    assert codec.normalization is None


def test_the_papers_normalization_leaves_pixels_unchanged(pixels: torch.Tensor) -> None:
    """Its networks of ImageNet-64 were trained on images in [-1, 1]."""
    normalization = Rgb("paper").normalization
    x = pixels / 127.5 - 1
    torch.testing.assert_close(normalization.normalize(x), x)
    torch.testing.assert_close(normalization.denormalize(x), x)


@pytest.mark.parametrize("normalization", ["dataset", "paper"])
def test_saved_pixel_space(choice: CodecChoice, tmp_path: Path, normalization: str) -> None:
    changed = choice.model_copy(update={"kind": "rgb", "normalization": normalization})
    save_codec(changed, tmp_path / "vae", tmp_path)
    assert read_manifest(tmp_path / "vae")["kind"] == "rgb"
    codec = load_codec(tmp_path / "vae", CPU)
    assert isinstance(codec, Rgb)
    assert (codec.normalization is None) == (normalization == "dataset")
