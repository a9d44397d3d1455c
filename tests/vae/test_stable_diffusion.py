"""Stable Diffusion's autoencoder as a codec: a tiny one with random weights, saved to disk."""

from collections.abc import Callable
from pathlib import Path

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
    """Saved as a stage does, and loaded again."""

    def make(path: str | None = saved.name, normalization: str = "dataset") -> Codec:
        choice = load(Path(__file__).parents[2] / "params.yaml").codec.model_copy(
            update={"kind": "stable_diffusion", "path": path, "normalization": normalization}
        )
        save_codec(choice, tmp_path / "vae", saved.parent)
        return load_codec(tmp_path / "vae", CPU)

    return make


def posterior(saved: Path, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std of latents by the network's layers, its last ones in NumPy."""
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False)
    with torch.no_grad():
        moments = network.quant_conv(network.encoder(x)).double().numpy()
    return moments[:, :4], np.exp(moments[:, 4:] / 2)


def test_encodes_as_the_network_does(codec_of, saved: Path, pixels: torch.Tensor) -> None:
    codec = codec_of()
    assert (codec.downscale, codec.channels, codec.normalization) == (4, 4, None)
    mean, std = codec.encode(pixels)
    assert mean.shape == std.shape == (3, 4, 4, 4)
    assert mean.dtype == std.dtype == torch.float32
    expected = posterior(saved, pixels / 127.5 - 1)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(std, expected[1], rtol=1e-3)


def test_decodes_as_the_network_does(codec_of, saved: Path) -> None:
    latents = torch.randn(3, 4, 4, 4)
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False)
    with torch.no_grad():
        x = network.decoder(network.post_quant_conv(latents)).double().numpy()
    found = codec_of().decode(latents)
    assert found.dtype == torch.uint8
    expected = np.clip(np.rint(x * 127.5 + 127.5), 0, 255)
    assert len(np.unique(expected)) > 20
    np.testing.assert_allclose(found, expected, atol=1)


def test_the_paper_shows_it_images_in_zero_to_one(codec_of, saved, pixels) -> None:
    codec = codec_of(normalization="paper")
    np.testing.assert_allclose(
        codec.encode(pixels)[0], posterior(saved, pixels / 255)[0], rtol=1e-3, atol=1e-5
    )
    latents = torch.randn(3, 4, 4, 4)
    network = AutoencoderKL.from_pretrained(saved, low_cpu_mem_usage=False)
    with torch.no_grad():
        x = network.decode(latents).sample.double().numpy()
    np.testing.assert_allclose(codec.decode(latents), np.clip(np.rint(x * 255), 0, 255), atol=1)


def test_the_papers_constants(codec_of) -> None:
    """By hand: (5.81 + 4.17 − 5.81) / 4.17 / 2, and so on."""
    normalization = codec_of(normalization="paper").normalization
    assert isinstance(normalization, Normalization)
    raw = torch.tensor([5.81 + 4.17, 3.25 - 4.62, 0.12, -2.15 + 2 * 3.28]).reshape(1, 4, 1, 1)
    expected = torch.tensor([0.5, -0.5, 0.0, 1.0])
    torch.testing.assert_close(normalization.normalize(raw).flatten(), expected)


def test_large_images_pass_in_parts(codec_of, pixels: torch.Tensor, monkeypatch) -> None:
    codec = codec_of()
    assert isinstance(codec, StableDiffusionVae)
    mean, _ = codec.encode(pixels)
    images, seen = codec.decode(mean), []
    for part in (codec.network.encoder, codec.network.decoder):
        part.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr("edm2.data.images.MAX_BATCH_PIXELS", 2 * 16**2)
    torch.testing.assert_close(codec.encode(pixels)[0], mean)
    assert (codec.decode(mean).int() - images.int()).abs().max() <= 1
    assert seen == [2, 1, 2, 1]


def test_computes_in_float32_frozen_and_without_gradients(codec_of, saved, pixels) -> None:
    """Whatever the file has."""
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


def test_the_folder_of_the_stage_holds_all_that_is_needed(codec_of, saved, tmp_path) -> None:
    codec_of()
    manifest = read_manifest(tmp_path / "vae")
    assert "path" not in manifest  # where the file lay is nothing to the result
    assert (manifest["kind"], set(manifest["files"])) == ("stable_diffusion", {CONFIG, WEIGHTS})
    assert (tmp_path / "vae" / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert (tmp_path / "vae" / WEIGHTS).stat().st_nlink == 1  # the user's file stays apart


def test_names_of_old_files_are_known(saved: Path, tmp_path: Path) -> None:
    """Stable Diffusion's own file names the attention layers so."""
    write_autoencoder(tmp_path / "new", mid_block_add_attention=True)
    (tmp_path / "old").mkdir()
    old, renamed = {}, 0
    for name, tensor in load_file(tmp_path / "new" / WEIGHTS).items():
        before = name
        for new, past in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{past}.")
        old[name], renamed = tensor, renamed + (name != before)
    assert renamed == 16
    save_file(old, tmp_path / "old" / WEIGHTS)
    (tmp_path / "old" / CONFIG).write_text((tmp_path / "new" / CONFIG).read_text())
    a, b = (load_autoencoder(tmp_path / name, CPU).state_dict() for name in ("new", "old"))
    assert a.keys() == b.keys()
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("harm", ["cut", "missing tensor", "unknown tensor", "other shape"])
def test_a_wrong_file_is_refused(saved: Path, tmp_path: Path, harm: str) -> None:
    tensors = load_file(saved / WEIGHTS)
    if harm == "missing tensor":
        del tensors["encoder.conv_in.weight"]
    elif harm == "unknown tensor":
        tensors["encoder.extra"] = torch.zeros(1)
    elif harm == "other shape":
        tensors["encoder.conv_in.weight"] = torch.zeros(1, 3, 3, 3)
    save_file(tensors, tmp_path / WEIGHTS)
    if harm == "cut":
        (tmp_path / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    (tmp_path / CONFIG).write_text((saved / CONFIG).read_text())
    with pytest.raises(UserError, match=rf"{tmp_path}.*Set codec\.path to another"):
        load_autoencoder(tmp_path, CPU)


def test_a_pickle_is_not_read(saved: Path, tmp_path: Path) -> None:
    torch.save(load_file(saved / WEIGHTS), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / CONFIG).write_text((saved / CONFIG).read_text())
    with pytest.raises(UserError, match=r"no file named diffusion_pytorch_model\.safetensors"):
        load_autoencoder(tmp_path, CPU)


def test_the_published_one_is_downloaded_once(codec_of, saved, tmp_path, monkeypatch) -> None:
    asked = []

    def download(repository: str, name: str, local_dir: Path) -> None:
        asked.append((repository, name))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes((saved / name).read_bytes())

    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for _ in range(2):
        assert codec_of(None).channels == 4
    assert asked == [("stabilityai/sd-vae-ft-mse", name) for name in (CONFIG, WEIGHTS)]
    assert (tmp_path / "cache/sd-vae-ft-mse" / WEIGHTS).exists()


def test_without_network_address_and_place_are_told(codec_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        codec_of(None)
    for said in (
        "https://huggingface.co/stabilityai/sd-vae-ft-mse",
        CONFIG,
        WEIGHTS,
        str(tmp_path / "cache/sd-vae-ft-mse"),
        "codec.path",
    ):
        assert said in str(error.value)
