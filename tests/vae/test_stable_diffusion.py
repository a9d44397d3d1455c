"""The Stable Diffusion VAE as a codec: a tiny one with random weights, saved to disk."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from tiny import write_autoencoder

from edm2.data.normalization import Normalization
from edm2.params import UserError, load
from edm2.params.codec_checks import CONFIG, WEIGHTS
from edm2.params.errors import NotFiniteError, OutOfRangeError
from edm2.runtime.manifest import read_manifest
from edm2.vae.codec import Codec, load_codec
from edm2.vae.published import save_codec
from edm2.vae.stable_diffusion import StableDiffusionVae, load_autoencoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)


@pytest.fixture
def codec_of(saved: Path, tmp_path: Path) -> Callable[..., Codec]:
    """Saves a codec like the stage and loads it."""

    def make(
        path: str | None = saved.name,
        normalization: str = "dataset",
        rounding: str = "nearest",
    ) -> Codec:
        choice = load(Path(__file__).parents[2] / "params.yaml").codec.model_copy(
            update={
                "kind": "stable_diffusion",
                "path": path,
                "normalization": normalization,
                "rounding": rounding,
            }
        )
        save_codec(choice, tmp_path / "vae", saved.parent)
        return load_codec(tmp_path / "vae", CPU)

    return make


def posterior(saved: Path, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std of latents by the network's own layers; the split and the exponential by NumPy."""
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False)
    with torch.no_grad():
        moments = network.quant_conv(network.encoder(x)).double().numpy()
    return moments[:, :4], np.exp(moments[:, 4:] / 2)


def test_latents_are_those_of_the_network(codec_of, saved: Path, pixels: torch.Tensor) -> None:
    codec = codec_of()
    assert (codec.downscale, codec.channels, codec.normalization) == (4, 4, None)
    mean, std = codec.encode(pixels)
    assert mean.shape == std.shape == (3, 4, 4, 4)
    assert mean.dtype == std.dtype == torch.float32
    expected = posterior(saved, pixels / 127.5 - 1)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(std, expected[1], rtol=1e-3)


def test_images_are_those_of_the_network(codec_of, saved: Path) -> None:
    latents = torch.randn(3, 4, 4, 4)
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False)
    with torch.no_grad():
        x = network.decoder(network.post_quant_conv(latents)).double().numpy()
    images = codec_of().decode(latents)
    assert images.dtype == torch.uint8
    expected = np.clip(np.rint(x * 127.5 + 127.5), 0, 255)
    assert len(np.unique(expected)) > 20
    np.testing.assert_allclose(images, expected, atol=1)


def test_with_the_papers_normalization_the_network_gets_images_in_zero_to_one(
    codec_of, saved, pixels
) -> None:
    codec = codec_of(normalization="paper")
    np.testing.assert_allclose(
        codec.encode(pixels)[0], posterior(saved, pixels / 255)[0], rtol=1e-3, atol=1e-5
    )
    latents = torch.randn(3, 4, 4, 4)
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False)
    with torch.no_grad():
        x = network.decode(latents).sample.double().numpy()
    np.testing.assert_allclose(codec.decode(latents), np.clip(np.rint(x * 255), 0, 255), atol=1)


@pytest.mark.parametrize("normalization", ["dataset", "paper"])
@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("nearest", [0, 0, 101, 102, 254, 255, 255]), ("truncate", [0, 0, 101, 101, 254, 254, 255])],
)
def test_decoded_values_become_8_bits(codec_of, rounding, expected, normalization) -> None:
    """The network's output is replaced; it is in [0, 1] with the paper's normalization."""
    codec = codec_of(normalization=normalization, rounding=rounding)
    levels = torch.tensor([-3.0, 0.4, 101.1, 101.9, 254.2, 254.8, 300.0]) / 255
    output = SimpleNamespace(sample=levels if normalization == "paper" else 2 * levels - 1)
    codec.network = SimpleNamespace(decode=lambda latents: output)
    assert codec.decode(torch.zeros(1, 4, 2, 2)).tolist() == expected


def test_the_papers_constants(codec_of) -> None:
    """By hand: (5.81 + 4.17 − 5.81) / 4.17 / 2, and so on."""
    normalization = codec_of(normalization="paper").normalization
    assert isinstance(normalization, Normalization)
    raw = torch.tensor([5.81 + 4.17, 3.25 - 4.62, 0.12, -2.15 + 2 * 3.28]).reshape(1, 4, 1, 1)
    expected = torch.tensor([0.5, -0.5, 0.0, 1.0])
    torch.testing.assert_close(normalization.normalize(raw).flatten(), expected)


def test_large_images_are_split_into_small_batches(codec_of, pixels, monkeypatch) -> None:
    codec = codec_of()
    assert isinstance(codec, StableDiffusionVae)
    mean, _ = codec.encode(pixels)
    images, batch_sizes = codec.decode(mean), []
    for module in (codec.network.encoder, codec.network.decoder):
        module.register_forward_pre_hook(lambda _, inputs: batch_sizes.append(len(inputs[0])))
    monkeypatch.setattr("edm2.data.images.MAX_BATCH_PIXELS", 2 * 16**2)
    torch.testing.assert_close(codec.encode(pixels)[0], mean)
    assert (codec.decode(mean).int() - images.int()).abs().max() <= 1
    assert batch_sizes == [2, 1, 2, 1]


def test_computes_in_float32_frozen_and_without_gradients(codec_of, saved, pixels) -> None:
    """Even if the file has float16."""
    halved = {name: tensor.half() for name, tensor in load_file(saved / WEIGHTS).items()}
    folder = saved.parent / "halved"
    folder.mkdir()
    save_file(halved, folder / WEIGHTS)
    (folder / CONFIG).write_text((saved / CONFIG).read_text())
    codec = codec_of("halved")
    assert {p.dtype for p in codec.network.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in codec.network.parameters())
    assert not codec.network.training
    assert not codec.encode(pixels)[0].requires_grad


def test_the_saved_folder_is_complete_without_the_users_files(codec_of, saved, tmp_path) -> None:
    codec_of()
    manifest = read_manifest(tmp_path / "vae")
    assert "path" not in manifest  # the result does not depend on where the file was
    assert (manifest["kind"], set(manifest["files"])) == ("stable_diffusion", {CONFIG, WEIGHTS})
    assert (tmp_path / "vae" / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert (
        tmp_path / "vae" / WEIGHTS
    ).stat().st_nlink == 1  # a copy, not a link to the user's file


def test_old_names_of_attention_layers_are_accepted(saved: Path, tmp_path: Path) -> None:
    """The published file of Stable Diffusion has them."""
    write_autoencoder(tmp_path / "new", mid_block_add_attention=True)
    (tmp_path / "old").mkdir()
    old, renamed = {}, 0
    for name, tensor in load_file(tmp_path / "new" / WEIGHTS).items():
        new_name = name
        for new, previous in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{previous}.")
        old[name], renamed = tensor, renamed + (name != new_name)
    assert renamed == 16
    save_file(old, tmp_path / "old" / WEIGHTS)
    (tmp_path / "old" / CONFIG).write_text((tmp_path / "new" / CONFIG).read_text())
    a, b = (load_autoencoder(tmp_path / name, CPU).state_dict() for name in ("new", "old"))
    assert a.keys() == b.keys()
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("damage", ["truncated", "missing tensor", "unknown tensor", "other shape"])
def test_damaged_weights_are_an_error(saved: Path, tmp_path: Path, damage: str) -> None:
    tensors = load_file(saved / WEIGHTS)
    if damage == "missing tensor":
        del tensors["encoder.conv_in.weight"]
    elif damage == "unknown tensor":
        tensors["encoder.extra"] = torch.zeros(1)
    elif damage == "other shape":
        tensors["encoder.conv_in.weight"] = torch.zeros(1, 3, 3, 3)
    save_file(tensors, tmp_path / WEIGHTS)
    if damage == "truncated":
        (tmp_path / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    (tmp_path / CONFIG).write_text((saved / CONFIG).read_text())
    with pytest.raises(UserError, match=rf"{tmp_path}.*codec\.path"):
        load_autoencoder(tmp_path, CPU)


@pytest.mark.parametrize("normalization", ["dataset", "paper"])
def test_a_diverged_network_gives_neither_images_nor_latents(
    codec_of, pixels: torch.Tensor, normalization: str
) -> None:
    codec = codec_of(normalization=normalization)
    mean, _ = codec.encode(pixels)
    last = codec.network.decoder.conv_out
    for value, error in (
        (torch.nan, NotFiniteError),
        (torch.inf, NotFiniteError),
        (50.0, OutOfRangeError),
    ):
        last.bias.data.fill_(value)
        with pytest.raises(error):
            codec.decode(mean)
    codec.network.quant_conv.bias.data[-1] = torch.inf  # of a log variance, which is clamped
    with pytest.raises(NotFiniteError, match="latents"):
        codec.encode(pixels)


def test_weights_that_are_not_finite_are_refused(saved: Path, tmp_path: Path) -> None:
    network = AutoencoderKL.from_pretrained(saved)
    network.decoder.conv_out.bias.data[0] = torch.nan
    network.save_pretrained(tmp_path)
    with pytest.raises(NotFiniteError, match=r"decoder\.conv_out\.bias: 1 of 3"):
        load_autoencoder(tmp_path, CPU)


def test_pickled_weights_are_an_error(saved: Path, tmp_path: Path) -> None:
    torch.save(load_file(saved / WEIGHTS), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / CONFIG).write_text((saved / CONFIG).read_text())
    with pytest.raises(UserError, match=WEIGHTS):
        load_autoencoder(tmp_path, CPU)


def test_the_published_vae_is_downloaded_once(codec_of, saved, tmp_path, monkeypatch) -> None:
    downloads = []

    def download(repository: str, name: str, local_dir: Path) -> None:
        downloads.append((repository, name))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes((saved / name).read_bytes())

    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for _ in range(2):
        assert codec_of(None).channels == 4
    assert downloads == [("stabilityai/sd-vae-ft-mse", name) for name in (CONFIG, WEIGHTS)]
    assert (tmp_path / "cache/sd-vae-ft-mse" / WEIGHTS).exists()


def test_the_error_without_network_names_address_files_and_folder(
    codec_of, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        codec_of(None)
    for expected in (
        "https://huggingface.co/stabilityai/sd-vae-ft-mse",
        CONFIG,
        WEIGHTS,
        str(tmp_path / "cache/sd-vae-ft-mse"),
        "codec.path",
    ):
        assert expected in str(error.value)
