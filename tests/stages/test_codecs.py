"""The pipeline with the codecs that are not trained here, and with another backbone."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from page_text import page_text
from safetensors.torch import load_file
from tiny import TINY, run_stage, write_autoencoder, write_params

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.features import vgg
from edm2.features.vgg import VGG16_WEIGHTS, Vgg16, load_vgg16, lpips_weights
from edm2.params import load
from edm2.pipeline.latent_report import TRAINING_IMAGES
from edm2.runtime.manifest import read_manifest
from edm2.vae.codec import load_codec
from edm2.vae.evaluation import evaluate, evaluated_images
from stages.train_vae import external_inputs

CPU = torch.device("cpu")
FROM_THE_CODEC_ON = (
    "train_vae",
    "baselines",
    "encode_latents",
    "train_diffusion",
    "snapshot_emas",
    "sweep_ema",
    "fid",
    "report",
)


ONE_EVALUATION = {"sweep__ema_lengths": [0.1], "evaluation__confirm": False}


def run(names=FROM_THE_CODEC_ON):
    for name in names:
        run_stage(
            name, "G" if name in ("train_diffusion", "snapshot_emas", "sweep_ema", "fid") else ""
        )


def metrics_of(folder, stage="vae"):
    path = folder / f"reports/{stage}/metrics.json"
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def generated(folder):
    """The rows of the EMA sweep, which must be numbers."""
    table = pd.read_csv(folder / "reports/fid/G-0.csv")
    assert len(table) == 2  # two sample counts
    assert np.isfinite(table["value"]).all()
    return table


def test_digits_in_pixel_space(project, capsys):
    """With the few keys that docs/guides/latents.md has."""
    folder = project(
        codec__kind="rgb",
        diffusion__channel_mult=[1, 2, 2],
        diffusion__paper_dataset="imagenet-64",
        **ONE_EVALUATION,
    )
    run()
    assert "codec.kind is rgb" in capsys.readouterr().out
    assert read_manifest(folder / "models/vae")["files"] == {}
    images, latents = (
        ImageShards(folder / "data/images", "train"),
        LatentShards(folder / "data/latents", "train"),
    )
    assert latents.shape == (3, 16, 16)
    pixels = images.batch(range(len(images)))[0].double().numpy() / 127.5 - 1
    mean, std = (getattr(pixels, name)(axis=(0, 2, 3)) for name in ("mean", "std"))
    np.testing.assert_allclose(latents.normalization.mean, mean, atol=1e-3)
    np.testing.assert_allclose(latents.normalization.std, std, rtol=1e-3)
    network = load_file(folder / "models/diffusion/G-0/network.safetensors")
    assert any("16x16" in name for name in network)
    generated(folder)
    metrics = metrics_of(folder)
    assert "psnr" not in metrics
    assert metrics["perceptual_classifier"] == 0
    distances = list(metrics_of(folder, "baselines").values())
    assert len(distances) == 2
    assert distances[0] == pytest.approx(distances[1], rel=1e-6)
    assert pd.read_csv(folder / "reports/vae/curves.csv").empty
    assert pd.read_csv(folder / "reports/vae/ema.csv").empty
    assert read_manifest(folder / "models/vae_snapshots")["files"] == {}
    page = page_text((folder / "reports/index.html").read_text())
    assert "exact reconstruction" in page
    assert "No VAE was trained" in page
    assert "Training curves of the VAE" not in page


@pytest.mark.parametrize("normalization", ["dataset", "paper"])
def test_digits_in_latents_of_stable_diffusions_kind(project, tmp_path, normalization):
    write_autoencoder(tmp_path / "sd")
    folder = project(
        codec__kind="stable_diffusion",
        codec__path=str(tmp_path / "sd"),
        codec__normalization=normalization,
        **ONE_EVALUATION,
    )
    if normalization == "dataset":
        run(FROM_THE_CODEC_ON[:1])
        (tmp_path / "sd/diffusion_pytorch_model.safetensors").write_bytes(b"")  # no more needed
        run(FROM_THE_CODEC_ON[1:])
        generated(folder)
        assert "No VAE was trained" in page_text((folder / "reports/index.html").read_text())
    else:
        run(("train_vae", "encode_latents"))
    manifest = read_manifest(folder / "data/latents")
    assert manifest["shape"] == [4, 4, 4]
    codec, images = (
        load_codec(folder / "models/vae", CPU),
        ImageShards(folder / "data/images", "train"),
    )
    means, stds = codec.encode(images.batch(range(len(images)))[0])
    if normalization == "paper":
        assert (manifest["mean"][0], manifest["std"][3]) == (
            pytest.approx(5.81),
            pytest.approx(3.28),
        )
    else:
        spread = means.double().numpy().var((0, 2, 3)) + (stds.double().numpy() ** 2).mean(
            (0, 2, 3)
        )
        np.testing.assert_allclose(manifest["std"], np.sqrt(spread), rtol=1e-3)
    written = LatentShards(folder / "data/latents", "train").batch(range(20))
    np.testing.assert_allclose(written[0], means[:20], rtol=1e-2, atol=1e-3)
    assert {"psnr", "ssim", "perceptual_classifier", "latent/std"} <= metrics_of(folder).keys()
    channels, robustness = (
        pd.read_csv(folder / f"reports/latents/{name}.csv") for name in ("channels", "robustness")
    )
    subset = evaluated_images(len(means), TRAINING_IMAGES)
    np.testing.assert_allclose(
        channels["mean"], means[subset].mean((0, 2, 3)), rtol=1e-2, atol=1e-3
    )
    assert np.isfinite(robustness["psnr"]).all()


def test_vgg16_as_backbone(project, tmp_path, monkeypatch):
    """A random one, in a file laid out as torchvision's."""
    torch.manual_seed(0)
    state = {f"features.{k}": t for k, t in Vgg16(lpips_weights()).features.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    digest = hashlib.sha256((tmp_path / "vgg16.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(vgg, "VGG16_WEIGHTS", replace(VGG16_WEIGHTS, sha256=digest))
    folder = project(
        vae__backbone="vgg16",
        vae__backbone_path=str(tmp_path / "vgg16.pth"),
        vae__duration_nimg=128,
        vae__evaluate_nimg=128,
    )
    run_stage("train_vae")
    metrics = metrics_of(folder)
    held_out = ImageShards(folder / "data/images", "held_out")
    codec = load_codec(folder / "models/vae", CPU)
    expected = evaluate(codec, held_out, load_vgg16(tmp_path / "vgg16.pth", CPU), CPU)
    assert metrics["perceptual_vgg16"] == pytest.approx(expected["perceptual_vgg16"], rel=1e-4)
    rows = pd.read_csv(folder / "reports/vae/curves.csv")
    assert rows["train/perceptual"].gt(0).all()


def test_other_files_are_other_work(tmp_path, monkeypatch):
    """Of the autoencoder and of the backbone; without such files there is nothing to name."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def described(**changes):
        return external_inputs(load(write_params(tmp_path / "params.yaml", {**TINY, **changes})))

    assert described() == ""
    assert described(**{"codec.kind": "stable_diffusion", "dataset.resolution": 32}) == ""
    write_autoencoder(tmp_path / "sd")
    (tmp_path / "vgg16.pth").write_bytes(b"x")
    changes = {
        "codec.kind": "stable_diffusion",
        "codec.path": "sd",
        "vae.backbone": "vgg16",
        "vae.backbone_path": "vgg16.pth",
    }
    seen = {described(**changes)}
    for name in ("sd/config.json", "sd/diffusion_pytorch_model.safetensors", "vgg16.pth"):
        with (tmp_path / name).open("ab") as file:
            file.write(b" ")
        seen.add(described(**changes))
    start = {
        "vae.init.path": "sd",
        "vae.norm_groups": 4,
        "vae.attention": True,
        "vae.quant_convolutions": True,
    }
    seen |= {described(**start)}
    with (tmp_path / "sd/config.json").open("ab") as file:
        file.write(b" ")
    seen |= {described(**start)}
    assert len(seen) == 6
