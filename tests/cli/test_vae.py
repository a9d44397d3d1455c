"""`edm2 vae train`: a VAE without a project."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from small_tars import SMALL, picture, write_pictures, write_tar

from edm2.data.sized import SizedImages
from edm2.data.sources.unlabeled import open_unlabeled
from edm2.params.presets import VAE_PRESETS
from edm2.params.vae_options import VaeOptions
from edm2.pipeline.vae_alone import train_alone
from edm2.pipeline.vae_trainer import HeldOut
from edm2.vae.codec import load_codec
from edm2.vae.initialization import initialize
from edm2.vae.network import Autoencoder

OPTIONS = ("--images", "{0..1}.tar", "--held-out", "2.tar", "--resolution", "32")
COMMAND = (*OPTIONS, *SMALL)
VAE, REPORTS = "models/vae/network.safetensors", "reports/vae"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tars, and a VAE that was trained without interruption, in `vae`."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(3):
            write_tar(Path(f"{number}.tar"), range(8 * number, 8 * number + 8))
        options = VaeOptions("{0..1}.tar", "2.tar", "f8d4", 32, SMALL, False, None)
        train_alone(options.params(1), folder / "vae")
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def test_the_folder_has_the_vae_and_reports(here: Path) -> None:
    codec = load_codec(here / "vae/models/vae", torch.device("cpu"))
    assert (codec.downscale, codec.channels) == (2, 4)
    metrics = json.loads((here / "vae" / REPORTS / "metrics.json").read_text())
    assert metrics["evaluated_images"] == 8
    assert metrics["psnr"] > 0
    for name in ("curves.csv", "reconstructions.png", "progress/manifest.json"):
        assert (here / "vae" / REPORTS / name).stat().st_size
    assert not list((here / "vae/state").glob("checkpoint-*"))
    assert not (here / ".state").exists()
    assert not (here / ".mlflow").exists()
    options = json.loads((here / "vae/options.json").read_text())
    assert options["vae.images.shards content"]
    assert all(re.fullmatch(r"[\w. -]+", key) for key in options)  # names that MLflow takes


def test_a_stopped_training_goes_on_to_the_same_bits(
    here: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = HeldOut.measure

    def stop(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*args)

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "measure", stop)
        result = run("vae", "train", "again", *COMMAND)
    assert result.status == 128 + signal.SIGTERM
    assert "run the same command again" in result.err
    assert list((here / "again/state").glob("checkpoint-*"))
    assert not (here / "again" / VAE).exists()

    refused = run("vae", "train", "again", *COMMAND, "vae.seed=1", "vae.lr=0.5")
    assert refused.status == 2
    assert "vae.seed: 0 there, 1 now" in refused.err
    assert "vae.lr: 0.02 there, 0.5 now" in refused.err

    assert run("vae", "train", "again", *COMMAND).status == 0
    for name in (VAE, f"{REPORTS}/metrics.json", f"{REPORTS}/curves.csv", "log.jsonl"):
        assert (here / "again" / name).read_bytes() == (here / "vae" / name).read_bytes(), name


def test_a_complete_training_is_not_repeated(
    here: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edm2.pipeline.vae_alone.train_and_evaluate", None)
    result = run("vae", "train", "vae", *COMMAND)
    assert (result.status, "complete already" in result.err) == (0, True)


def test_other_images_of_the_same_names_are_refused(here: Path, run: Callable) -> None:
    content = Path("0.tar").read_bytes()
    try:
        write_tar(Path("0.tar"), range(9))
        result = run("vae", "train", "vae", *COMMAND)
    finally:
        Path("0.tar").write_bytes(content)
    assert result.status == 2
    assert "--images: changed" in result.err


def test_a_folder_of_other_things_is_refused(here: Path, run: Callable) -> None:
    result = run("vae", "train", ".", *COMMAND)
    assert result.status == 2
    assert "0.tar" in result.err
    assert not Path("state").exists()


def test_damaged_images_in_folders_are_named_and_can_be_replaced(
    tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_pictures(tmp_path / "images", range(8))
    write_tar(tmp_path / "gray.tar", range(8, 12), gray=True)
    (folder / "3.png").write_bytes(b"")
    command = ("--images", "images", "--held-out", "gray.tar", "--resolution", "32", *SMALL)
    refused = run("vae", "train", "out", *command)
    assert refused.status == 2
    assert "images/3.png" in refused.err
    (folder / "3.png").write_bytes(picture(3))
    result = run("vae", "train", "out", *command)
    assert result.status == 0
    assert "8 images are read" in result.out


def test_it_is_exported_with_factors_of_held_out_latents(
    here: Path, run: Callable, tmp_path
) -> None:
    assert run("export", "vae", tmp_path / "kl", "--from", "vae").status == 0
    config = json.loads((tmp_path / "kl/config.json").read_text())
    metrics = json.loads((here / "vae" / REPORTS / "metrics.json").read_text())
    means = torch.tensor([metrics[f"latent/mean_{c}"] for c in range(4)])
    stds = torch.tensor([metrics[f"latent/std_{c}"] for c in range(4)])  # of means: variance 0.1
    variance = (stds.square() + 0.1 + means.square()).mean() - means.mean() ** 2
    assert config["sample_size"] == 32
    assert config["shift_factor"] == pytest.approx(means.mean().item(), rel=1e-4)
    assert config["scaling_factor"] == pytest.approx(variance.item() ** -0.5, rel=1e-4)
    assert "latents of held-out images" in (tmp_path / "kl/README.md").read_text()


def test_another_training_can_start_from_it(here: Path) -> None:
    changes = (*SMALL, "vae.init.path=vae/models/vae")
    vae = VaeOptions("{0..1}.tar", "2.tar", "f8d4", 32, changes, False, None).params(1).vae
    network = Autoencoder(vae)
    initialize(network, vae, Path(vae.init.path))
    expected = load_codec(here / "vae/models/vae", torch.device("cpu")).network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_a_missing_folder_is_not_an_option(here: Path, run: Callable) -> None:
    result = run("vae", "train", "vae.lr=0.01", *COMMAND)
    assert (result.status, "OUT" in result.err) == (2, True)
    assert not Path("vae.lr=0.01").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images", "0.tar"), "--held-out"),
        ((*OPTIONS, "--tracking-uri", "http://host:5000"), "--mlflow"),
        ((*OPTIONS, "vae.lrr=1"), "Did you mean lr?"),
    ],
)
def test_wrong_options_are_refused(here, run: Callable, arguments, words: str) -> None:
    result = run("vae", "train", "wrong", *arguments)
    assert (result.status, words in result.err) == (2, True)
    assert not Path("wrong").exists()


def test_folders_without_images_are_named_by_their_options(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    images = ("--images", str(tmp_path / "one"), "--held-out", str(tmp_path / "two"))
    result = run("vae", "train", str(tmp_path / "vae"), *images)
    assert result.status == 2
    assert f"--images: {tmp_path / 'one'}: contains no images" in result.err


def test_held_out_images_are_not_trained_on_through_links(run: Callable, tmp_path: Path) -> None:
    """Copies are a warning."""
    images = write_pictures(tmp_path / "images", range(8))
    held_out = write_pictures(tmp_path / "held-out", range(8, 12))
    (held_out / "link.png").symlink_to(images / "3.png")
    command = ("vae", "train", tmp_path / "vae", "--images", images, "--held-out", held_out)
    refused = run(*command, "--resolution", "32", *SMALL)
    assert refused.status == 2
    assert "--held-out: " in refused.err
    assert "link.png is 3.png" in refused.err
    (held_out / "link.png").unlink()
    shutil.copy(images / "3.png", held_out / "3.png")
    result = run(*command, "--resolution", "32", *SMALL)
    assert result.status == 0
    assert "warning: --held-out: 1 of 5 files have name and size" in result.out


def test_the_help_has_all_presets(run: Callable) -> None:
    text = run("vae", "train", "--help").out
    assert all(f"  {name} " in text for name in VAE_PRESETS)


def test_a_preset_is_printed_with_its_comments(run: Callable) -> None:
    text = run("vae", "preset", "f16d32").out
    sections = YAML(typ="safe").load(text)
    assert sections.keys() == {"vae", "runtime"}
    assert (sections["vae"]["latent_channels"], sections["vae"]["microbatch"]) == (32, 8)
    assert "# fits 80 GB" in text
    assert "f16d32" in run("vae", "preset", "f16d3").err


def test_an_average_of_its_weights_is_a_codec(here: Path, run: Callable, tmp_path: Path) -> None:
    command = ("vae", "average", "vae/models/vae_snapshots", tmp_path / "average")
    result = run(*command, "--ema-length", "0.1")
    assert (result.status, "EMA length 0.1, 64 images" in result.out) == (0, True), result.err
    codec, final = (
        load_codec(folder, torch.device("cpu"))
        for folder in (tmp_path / "average", here / "vae/models/vae")
    )
    pairs = zip(codec.network.parameters(), final.network.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_an_average_is_exported_with_the_scale_of_images(
    here: Path, run: Callable, tmp_path: Path
) -> None:
    """With those of the training the factors are the same, and they need no training."""
    average, final, images = tmp_path / "average", "vae/models/vae", ("--images", "2.tar")
    run("vae", "average", "vae/models/vae_snapshots", average, "--ema-length", "0.1")
    refused = run("export", "vae", tmp_path / "kl", "--from", average)
    assert (refused.status, "--images" in refused.err) == (2, True)

    configs = {}
    for name, source, options in (
        ("average", average, (*images, "--resolution", "32")),
        ("final", final, (*images, "--resolution", "32")),
        ("training", "vae", ()),
    ):
        folder = tmp_path / f"kl-{name}"
        result = run("export", "vae", folder, "--from", source, *options)
        assert result.status == 0, result.err
        configs[name] = json.loads((folder / "config.json").read_text())
    assert configs["final"] == configs["training"]
    codec = load_codec(average, torch.device("cpu"))
    pixels = SizedImages(open_unlabeled("2.tar", "images", tmp_path), 32, "lanczos", 8).batch(
        range(8)
    )
    mean, std = codec.encode(pixels[0])
    second = (mean.square() + std.square()).mean()
    assert configs["average"]["shift_factor"] == pytest.approx(float(mean.mean()), rel=1e-4)
    scale = float(second - mean.mean() ** 2) ** -0.5
    assert configs["average"]["scaling_factor"] == pytest.approx(scale, rel=1e-4)
    card = (tmp_path / "kl-average/README.md").read_text()
    assert "8 images of 2.tar" in card
    assert "| EMA length | 0.1 |" in card


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "vae", "--images", "2.tar"), "--resolution"),
        (("--images", "2.tar", "--resolution", "32"), "--from"),
        (("--from", "vae", "--images", "2.tar", "--resolution", "33"), "32 or 34"),
        (("--from", "vae", "--images", "none.tar", "--resolution", "32"), "none.tar"),
        (("--from", ".", "--images", "2.tar", "--resolution", "32"), "vae train"),
    ],
)
def test_wrong_exports_write_nothing(here, run: Callable, tmp_path: Path, arguments, words) -> None:
    result = run("export", "vae", tmp_path / "kl", *arguments)
    assert (result.status, words in result.err) == (2, True), result.err
    assert not (tmp_path / "kl").exists()


def test_wrong_averages_are_refused(here: Path, run: Callable, tmp_path: Path) -> None:
    snapshots, out = "vae/models/vae_snapshots", tmp_path / "average"
    for arguments, words in (
        ((snapshots, "--ema-length", "0.4"), "--ema-length 0.4"),
        ((snapshots, "--ema-length", "0.1", "--nimg", "65"), "65 images"),
        (("vae/models/vae", "--ema-length", "0.1"), "holds no snapshots"),
        (("vae", "--ema-length", "0.1"), "vae/models/vae_snapshots"),
    ):
        result = run("vae", "average", *arguments, out)
        assert (result.status, words in result.err) == (2, True), result.err
    assert not out.exists()
