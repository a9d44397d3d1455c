"""Portable networks: what is written comes back; what a stranger wrote is checked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from tiny_network import edit_config, tiny_denoiser, tiny_network, write_network

from edm2.params import UserError
from edm2.params.codec import CodecChoice
from edm2.params.evaluation import Sampling
from edm2.params.presets import preset_text
from edm2.params.vae import Vae
from edm2.params.vae_manifest import ADDED
from edm2.pipeline import published_network
from edm2.pipeline.export_network import export_portable
from edm2.pipeline.portable import read_portable, write_description
from edm2.pipeline.portable_codec import CodecDescription
from edm2.runtime.manifest import load_manifest, read_manifest, write_manifest
from edm2.vae.codec import Rgb, TrainedVae, save_vae
from edm2.vae.network import Autoencoder
from edm2.vae.published import save_codec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def params():
    return YAML(typ="safe").load(preset_text("digits"))


@pytest.fixture
def trained(params, tmp_path):
    """The folder of a tiny trained VAE with latents of 4 channels, and what it decodes."""
    values = {**params["vae"], "channels": 8, "channel_mult": [1, 2]}
    values["images"] = {**values["images"], "shards": "/home/me/secret/{00..09}.tar"}
    vae = Vae.model_validate(values)
    torch.manual_seed(0)
    network = Autoencoder(vae).eval().requires_grad_(False)
    save_vae(network, vae, tmp_path / "vae")
    return tmp_path / "vae", TrainedVae(network, vae)


@pytest.fixture
def folder(copy_of_network):
    return copy_of_network


def damage_codec(folder, change):
    manifest = load_manifest(folder)
    del manifest["files"]
    change(manifest)
    write_manifest(folder, **manifest)


def test_all_that_sampling_needs_comes_back(params, tmp_path):
    sampling = Sampling.model_validate({**params["sampling"], "steps": 5})
    network = tiny_network(
        sampling=sampling, guidance_interval=(0.3, 5.0), provenance={"config": "G", "seed": 3}
    )
    export_portable(network, "cc-by-4.0", tmp_path / "net")
    back = read_portable(tmp_path / "net")
    assert (back.classes, back.sampling, back.codec) == (
        ["cat", "dog"],
        sampling,
        CodecDescription("rgb", "dataset", "nearest"),
    )
    assert back.guidance_interval == (0.3, 5.0)
    assert torch.equal(back.normalization.mean, network.normalization.mean)
    assert torch.equal(back.normalization.std, network.normalization.std)
    assert back.provenance == {"config": "G", "seed": 3, "license": "cc-by-4.0"}
    files = read_manifest(tmp_path / "net")["files"]
    assert back.identity == files["model.safetensors"]["sha256"]
    assert isinstance(back.codec.load(CPU), Rgb)


def test_weights_that_are_exact_in_16_bits_take_16_bits(tmp_path):
    denoiser = tiny_denoiser()
    for tensor in denoiser.state_dict().values():
        tensor.copy_(tensor.half())
    sizes = [
        (write_network(tmp_path / name, denoiser=d) / "model.safetensors").stat().st_size
        for name, d in (("exact", denoiser), ("other", tiny_denoiser()))
    ]
    assert sizes[0] < 0.7 * sizes[1]
    back = read_portable(tmp_path / "exact").denoiser.state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_a_network_without_classes(tmp_path):
    network = tiny_network(denoiser=tiny_denoiser(num_classes=0), classes=[])
    export_portable(network, None, tmp_path / "net")
    assert read_portable(tmp_path / "net").classes == []


def remove(options, added):
    """Remove options from a tree, and sections that are empty then."""
    for key, value in added.items():
        if key not in options:
            continue
        if isinstance(value, dict):
            remove(options[key], value)
        if not isinstance(value, dict) or not options[key]:
            del options[key]


def test_the_codec_of_an_earlier_version_is_read(trained):
    """It lacks the params that were added since."""
    vae, codec = trained
    damage_codec(vae, lambda manifest: remove(manifest["vae"], ADDED))
    back = CodecDescription("trained", folder=vae).load(CPU)
    latents = torch.ones(1, 4, 4, 4)
    assert torch.equal(back.decode(latents), codec.decode(latents))


def test_a_trained_codec_is_in_the_folder_and_names_no_folder_of_this_machine(trained, tmp_path):
    vae, codec = trained
    network = tiny_network(
        denoiser=tiny_denoiser(in_channels=4),
        codec=CodecDescription("trained", folder=vae),
        normalization=tiny_network().normalization.__class__(torch.zeros(4), torch.ones(4)),
    )
    export_portable(network, None, tmp_path / "net")
    shutil.rmtree(vae)
    latents = torch.randn(2, 4, 4, 4)
    back = read_portable(tmp_path / "net").codec.load(CPU)
    assert torch.equal(back.decode(latents), codec.decode(latents))
    texts = [path.read_text() for path in (tmp_path / "net").rglob("*.json")]
    assert not any("secret" in text or str(tmp_path) in text for text in texts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["vae"].update(channels=2**14), "weights are of another VAE"),
        (lambda m: m["vae"].update(res_blocks=10**6), "1 to 100"),
        (lambda m: m["vae"].update(channels="many"), "channels: 'many'"),
        (lambda m: m.update(kind="rgb"), "kind: 'rgb', expected 'trained'"),
    ],
)
def test_a_codec_is_compared_with_its_weights_before_it_is_built(trained, change, words):
    vae, _ = trained
    damage_codec(vae, change)
    with pytest.raises(UserError) as error:
        CodecDescription("trained", folder=vae).load(CPU)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "change", [{}, {"block_out_channels": [8, 2**20]}, {"layers_per_block": 10**6}]
)
def test_a_stable_diffusion_codec_is_in_the_folder_and_is_checked(tmp_path, change):
    diffusers = pytest.importorskip("diffusers")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
    ).save_pretrained(tmp_path / "vae")
    choice = CodecChoice(
        kind="stable_diffusion", path="vae", normalization="dataset", rounding="truncate"
    )
    save_codec(choice, tmp_path / "models", tmp_path)
    config = tmp_path / "models/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    damage_codec(tmp_path / "models", lambda _: None)
    description = CodecDescription("stable_diffusion", "dataset", "truncate", tmp_path / "models")
    export_portable(tiny_network(codec=description), None, tmp_path / "net")
    shutil.rmtree(tmp_path / "models")
    codec = read_portable(tmp_path / "net").codec
    assert codec.folder == tmp_path / "net/codec"
    if change:
        with pytest.raises(
            UserError, match=r"another VAE|expected at most 1024|cannot be compared"
        ):
            codec.load(CPU)
    else:
        assert codec.load(CPU).rounding == "truncate"


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["color"], 1, "color"),
        (["codec", "kind"], "os:system", "codec.kind: 'os:system'"),
        (["codec", "files"], None, "codec.files"),
        (["codec", "kind"], "trained", "needs its files in codec/"),
        (["codec"], None, "a denoiser without its codec"),
        (["latents", "mean"], [0.0, 0.0], "latents.mean: 2 entries, expected 3"),
        (["latents", "std"], [1.0, 0.0, 1.0], "latents.std.1"),
        (["classes"], ["cat"], "classes: 1 entries, expected 2"),
        (["sampling"], {"steps": 8}, "sampling."),
        (["guidance_interval"], [1.0], "guidance_interval"),
        (["latents"], ..., "latents: "),
    ],
)
def test_descriptions_are_refused_by_key(folder, keys, value, words):
    edit_config(folder, *keys, value=value)
    with pytest.raises(UserError) as error:
        read_portable(folder)
    assert words in str(error.value)
    assert str(folder / "config.json") in str(error.value)


def test_a_denoiser_alone_makes_no_images(tmp_path):
    tiny_denoiser().save_pretrained(tmp_path / "net")
    with pytest.raises(UserError, match="without its codec"):
        read_portable(tmp_path / "net")


def test_a_file_has_its_description_beside_it(folder, tmp_path):
    other = tmp_path / "averages"
    other.mkdir()
    write_description(other, tiny_network())
    shutil.copy(folder / "model.safetensors", other / "0.1.safetensors")
    network = read_portable(str(other / "0.1.safetensors"))
    assert network.identity == read_portable(folder).identity
    assert network.classes == ["cat", "dog"]


def test_pickles_are_read_by_their_own_reader(tmp_path, monkeypatch):
    path = tmp_path / "edm2.pkl"
    path.touch()
    monkeypatch.setattr(published_network, "read_published_network", lambda path: path)
    assert read_portable(path) == path


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("edm2.pipeline.export_network.model_card", fail)
    with pytest.raises(KeyboardInterrupt):
        write_network(tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine").touch()
    with pytest.raises(UserError, match="net: exists"):
        write_network(tmp_path / "net")
    assert [path.name for path in tmp_path.rglob("*")] == ["net", "mine"]


def test_the_hub_reads_the_card_and_people_may_edit_it(folder):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "edm2"
    Path(folder / "README.md").write_text("---\nlicense: mit\n---\nmine")
    assert read_portable(folder).classes == ["cat", "dog"]


def test_the_format_is_plain(folder):
    """What other programs may rely on."""
    tree = json.loads((folder / "config.json").read_text())
    assert (tree["format"], tree["format_version"]) == ("edm2", 1)
    sections = {"denoiser", "codec", "latents", "classes", "sampling", "guidance_interval"}
    assert set(tree) - {"format", "format_version"} == sections | {"provenance"}
