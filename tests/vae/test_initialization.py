"""A training that starts from the weights of another VAE."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from tiny import run_stage, write_autoencoder
from tiny_autoencoder import make_network

from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.params.vae import Vae
from edm2.vae.codec import load_codec, save_vae
from edm2.vae.initialization import initialize
from edm2.vae.network import Autoencoder

ROUNDING = 1e-5  # of values about 1; the attention is computed in another order
PUBLISHED: dict[str, Any] = {  # what describes `write_autoencoder`
    "channel_mult": (1, 2, 2),
    "latent_channels": 4,
    "norm_groups": 4,
    "attention": True,
    "attention_heads": 1,
    "quant_convolutions": True,
    "variance": "learned",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's architecture with random weights, also of the quant convolutions."""
    return write_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@torch.no_grad()
def compare(network: Autoencoder, folder: Path) -> None:
    """Latents and decoded images are those of diffusers, as far as float32 allows."""
    theirs = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = network.encode(images)
    latents = theirs.encode(images).latent_dist
    torch.testing.assert_close(mean, latents.mean, atol=ROUNDING, rtol=0)
    if network.variance == "learned":
        torch.testing.assert_close(std, latents.std, atol=ROUNDING, rtol=0)
    decoded = theirs.decode(mean).sample
    torch.testing.assert_close(network.decoder(mean), decoded, atol=ROUNDING, rtol=0)
    assert float(decoded.std()) > 0.01


@pytest.mark.parametrize("variance", ["learned", 0.1])
@pytest.mark.parametrize("quant", [True, False])
def test_a_published_vae_is_the_start(tiny, tmp_path: Path, variance: Any, quant: bool) -> None:
    """Also with a constant variance: the means are the same."""
    write_autoencoder(tmp_path, use_quant_conv=quant, use_post_quant_conv=quant)
    options = PUBLISHED | {"variance": variance, "quant_convolutions": quant}
    params = tiny(**options)
    network = make_network(params)
    initialize(network, params, tmp_path)
    compare(network, tmp_path)


def test_only_the_decoder_is_taken(tiny, published: Path) -> None:
    """An encoder of another kind keeps its weights."""
    params = tiny(**{**PUBLISHED, "wavelet": True, "variance": 0.1, "init.parts": "decoder"})
    network = make_network(params)
    before = {name: t.clone() for name, t in network.encoder.state_dict().items()}
    initialize(network, params, published)
    assert all(torch.equal(t, before[name]) for name, t in network.encoder.state_dict().items())
    theirs = AutoencoderKL.from_pretrained(published, low_cpu_mem_usage=False)
    latents = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        expected = theirs.decode(latents).sample
        torch.testing.assert_close(network.decoder(latents), expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("quant", [True, False])
@pytest.mark.parametrize("variance", ["learned", 0.5])
def test_a_vae_that_was_trained_here_is_the_start(
    tiny, tmp_path, variance: Any, quant: bool
) -> None:
    source = tiny(variance="learned", quant_convolutions=quant, clamp=1.0)
    trained = make_network(source)
    save_vae(trained, source, tmp_path)
    params = tiny(variance=variance, quant_convolutions=quant)
    network = Autoencoder(params)
    initialize(network, params, tmp_path)
    images, latents = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 4, 4)
    expected = trained.encoder(images)[:, :2]
    torch.testing.assert_close(network.encode(images)[0], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(network.decoder(latents), trained.decoder(latents))
    if variance == "learned":
        assert torch.equal(network.encoder(images), trained.encoder(images))


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"channel_mult": (1, 2, 3)}, "vae.channels, vae.channel_mult: [8, 16, 24]", "[8, 16, 16]"),
        ({"channel_mult": (1, 2)}, "vae.channels, vae.channel_mult: [8, 16]", "[8, 16, 16]"),
        ({"res_blocks": 2}, "vae.res_blocks: 2", "1"),
        ({"latent_channels": 5}, "vae.latent_channels: 5", "4"),
        ({"norm_groups": None}, "vae.norm_groups: [2, 4]", "4"),
        ({"norm_groups": 2}, "vae.norm_groups: 2", "4"),
        ({"attention_heads": 2}, "vae.attention_heads: 2", "1"),
        ({"attention": False}, "vae.attention: False", "True"),
        ({"quant_convolutions": False}, "vae.quant_convolutions: False", "True"),
        ({"wavelet": True}, "vae.wavelet: True", "False"),
        ({"high_resolution": True}, "vae.high_resolution: True", "False"),
    ],
)
def test_an_option_that_differs_is_named(tiny, published, changes, key: str, words: str) -> None:
    params = tiny(**{**PUBLISHED, **changes})
    network = make_network(params)
    before = network.state_dict()
    with pytest.raises(UserError) as error:
        initialize(network, params, published)
    heading, line = str(error.value).splitlines()
    assert str(published) in heading
    assert f"{key}: expected {words}, as the network of vae.init.path has it" in line
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_a_learned_variance_cannot_start_from_an_encoder_without_one(tiny, tmp_path: Path) -> None:
    save_vae(make_network(tiny(variance=0.1)), tiny(variance=0.1), tmp_path)
    params = tiny(variance="learned")
    with pytest.raises(UserError, match=r"vae\.variance: 'learned'"):
        initialize(make_network(params), params, tmp_path)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"in_channels": 1}, "in_channels"),
        ({"use_quant_conv": False}, "use_quant_conv"),
    ],
)
def test_another_kind_of_autoencoder_is_refused(tiny, tmp_path, config, key: str) -> None:
    write_autoencoder(tmp_path, **config)
    params = tiny(**PUBLISHED)
    with pytest.raises(UserError, match=rf"config\.json: {key}.*vae\.init\.path"):
        initialize(make_network(params), params, tmp_path)


def test_a_damaged_file_is_named_with_the_param(tiny: Callable[..., Vae], tmp_path: Path) -> None:
    write_autoencoder(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    params = tiny(**PUBLISHED)
    with pytest.raises(UserError, match=r"vae\.init\.path"):
        initialize(make_network(params), params, tmp_path)


def test_weights_that_are_not_finite_are_refused(tiny, published: Path, tmp_path: Path) -> None:
    weights = "diffusion_pytorch_model.safetensors"
    shutil.copy(published / "config.json", tmp_path)
    tensors = load_file(published / weights)
    tensors["quant_conv.weight"][0, 0] = torch.nan
    save_file(tensors, tmp_path / weights)
    params = tiny(**PUBLISHED)
    with pytest.raises(NotFiniteError, match=r"tensor quant_conv\.weight.*vae\.init\.path"):
        initialize(make_network(params), params, tmp_path)


def test_the_stage_trains_from_there(project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the project's own VAE is the start; its training is stopped before the first step."""
    folder = project(vae__init__path="start")
    shutil.copytree(folder / "models/vae", folder / "start")
    states = []

    def stop(title: str, task: Any, *rest: Any, **options: Any) -> None:
        states.append(task.state_dict()["network"])
        raise UserError("stopped")

    monkeypatch.setattr("edm2.pipeline.vae_trainer.train", stop)
    with pytest.raises(UserError, match="stopped"):
        run_stage("train_vae")
    expected = load_codec(folder / "start", torch.device("cpu")).network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in states[0].items())
