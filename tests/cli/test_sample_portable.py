"""`edm2 sample` of networks that describe themselves: without a project and without data."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from published_networks import LATENTS, random_denoiser, write_network
from published_pickles import StabilityVAEEncoder
from safetensors.torch import save_file
from sampling_command import SEEDS, pixels, sample
from tiny import write_autoencoder

from edm2.diffusion.inference import prepare_for_inference
from edm2.params import UserError
from edm2.pipeline import samples
from edm2.pipeline.export_network import export_portable
from edm2.pipeline.portable import read_portable, write_description
from edm2.pipeline.portable_networks import PortableNetworks
from edm2.pipeline.sample_options import SampleOptions
from edm2.runtime import precision
from edm2.sampling import euler, heun
from edm2.sampling.generate import seed_churn, seed_labels, seed_noise

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("outside_projects")


def solved(denoise, denoiser, solver=heun, steps=3, churn=None):
    """Samples [N, C, R, R] of a denoiser by the solver itself, with the labels of SEEDS."""
    shape = denoiser.shape
    size = (shape.in_channels, shape.resolution, shape.resolution)
    labels = seed_labels(SEEDS, max(1, shape.num_classes), "uniform")
    noise = seed_noise(SEEDS, size, CPU)
    return solver(lambda x, sigma: denoise(x, sigma, labels), noise, steps, churn=churn)


def as_pixels(x):
    return (x * 127.5 + 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"resolution": 32, "channel_mult": (1, 2, 2), "attention_resolutions": (16, 8)},
        {"num_classes": 0},
    ],
    ids=["16", "32", "unconditional"],
)
def test_images_are_those_of_network_and_solver(shape):
    denoiser = random_denoiser(**shape)
    sample(write_network(Path("net.pkl"), denoiser))
    expected = solved(prepare_for_inference(denoiser), denoiser)
    assert np.array_equal(pixels(), as_pixels(expected))
    assert Path("samples/grid.png").exists()


def test_latents_are_decoded_with_the_constants_of_the_file(monkeypatch):
    """64×64×4 latents; the codec is that of the cache."""
    from diffusers import AutoencoderKL

    monkeypatch.setenv("EDM2_CACHE", "cache")
    write_autoencoder(Path("cache/sd-vae-ft-mse"))
    scale, bias = torch.tensor([2.0, 0.5, 1.0, 0.25]), torch.tensor([1.0, -0.5, 0.0, 0.25])
    denoiser = random_denoiser(**LATENTS)
    sample(write_network(Path("net.pkl"), denoiser, encoder=StabilityVAEEncoder(scale, bias)))
    x = solved(prepare_for_inference(denoiser), denoiser)
    vae = AutoencoderKL.from_pretrained("cache/sd-vae-ft-mse")
    with torch.no_grad():
        raw = (x - bias[:, None, None]) / scale[:, None, None]
        expected = (vae.decode(raw).sample.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    actual = pixels()
    assert actual.shape == (3, 256, 256, 3)
    assert np.abs(actual.astype(int) - expected).max() <= 1  # where rounding is at its edge
    assert (actual == expected).mean() > 0.999
    assert expected.std() > 1


@pytest.mark.parametrize("classes", [3, 0])
def test_another_network_guides(classes):
    """Narrower, and with or without classes: D = w·D_main + (1 − w)·D_guide."""
    main, guide = random_denoiser(), random_denoiser(1, channels=16, num_classes=classes)
    write_network(Path("guide.pkl"), guide)
    sample(write_network(Path("net.pkl"), main), "--guide", "guide.pkl", "--strength", 1.5)
    both = prepare_for_inference(main), prepare_for_inference(guide)

    def denoise(x, sigma, labels):
        return 1.5 * both[0](x, sigma, labels) + (1 - 1.5) * both[1](x, sigma, labels)

    assert np.array_equal(pixels(), as_pixels(solved(denoise, main)))


def test_without_the_package_of_the_codec_its_extra_is_named(run, monkeypatch):
    monkeypatch.setenv("EDM2_CACHE", "cache")
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        Path("cache/sd-vae-ft-mse").mkdir(parents=True, exist_ok=True)
        Path("cache/sd-vae-ft-mse", file).touch()
    write_network(Path("net.pkl"), random_denoiser(**LATENTS), encoder=None)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = run("sample", "net.pkl")
    assert (result.status, "Traceback" in result.err) == (2, False)
    assert "pip install 'edm2[sd]'" in result.err


def test_options_set_the_sampler():
    denoiser = random_denoiser()
    options = ("--solver", "euler", "--churn", 2, "--batch", 2, "--dtype", "bf16")
    sample(write_network(Path("net.pkl"), denoiser), *options)
    description = json.loads(Path("samples/samples.json").read_text())
    assert description["precision"] == "bf16"
    sampling = SampleOptions(steps=3, solver="euler", churn=2.0).sampling(
        PortableNetworks("net.pkl", None, SampleOptions()).sampling
    )
    assert description["sampling"] == sampling.model_dump(mode="json", exclude={"batch"})
    churn = seed_churn(SEEDS, (3, 16, 16), sampling, CPU)
    short = prepare_for_inference(denoiser, torch.bfloat16)
    expected = as_pixels(solved(short, denoiser, euler, churn=churn))
    assert np.abs(pixels().astype(int) - expected).mean() < 1  # in batches of 2, of 8 bits


def test_classes_are_used():
    denoiser = random_denoiser()
    sample(write_network(Path("net.pkl"), denoiser), "--class", "2,0")
    labels = torch.tensor([2, 0, 2])
    network = prepare_for_inference(denoiser)
    expected = solved(lambda x, sigma, _: network(x, sigma, labels), denoiser)
    assert np.array_equal(pixels(), as_pixels(expected))


def test_subdirs_have_a_thousand_seeds_each_and_nothing_but_images():
    write_network(Path("net.pkl"), random_denoiser())
    sample("net.pkl", "--seeds", "12,1999", "--subdirs")
    files = {str(p.relative_to("samples")) for p in Path("samples").rglob("*.*")}
    assert files == {"samples.json", "000000/000012.png", "001000/001999.png"}
    sample("net.pkl", "--seeds", "12,1999", "--out", "flat")
    nested, flat = Path("samples/000000/000012.png"), Path("flat/000000012.png")
    assert nested.read_bytes() == flat.read_bytes()
    with pytest.raises(UserError, match=r"\(subdirs differ\)"):
        sample("net.pkl", "--seeds", "12")
    Path("samples/samples.json").unlink()
    with pytest.raises(UserError, match="holds images, but no samples.json"):
        sample("net.pkl", "--seeds", "12", "--subdirs")


def test_an_interrupted_run_continues_with_the_same_images(run, monkeypatch):
    write_network(Path("net.pkl"), random_denoiser())
    sample("net.pkl", "--out", "whole")
    replacing, written = samples.replacing, []

    def interrupted(path):
        written.append(path.name)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return replacing(path)

    command = ("sample", "net.pkl", "--seeds", "3-5", "--steps", 3)
    with monkeypatch.context() as patch:
        patch.setattr(samples, "replacing", interrupted)
        assert run(*command).status == 130
    first = Path("samples/000000003.png")
    assert {p.name for p in Path("samples").glob("*.png")} == set(written[:2])
    time = first.stat().st_mtime_ns
    assert run(*command).status == 0
    assert first.stat().st_mtime_ns == time
    assert np.abs(pixels().astype(int) - pixels("whole")).max() <= 1  # other batches
    with pytest.raises(UserError, match=r"\(sampling differ\)"):
        sample("net.pkl", "--steps", 4)
    write_network(Path("net.pkl"), random_denoiser(1))
    with pytest.raises(UserError, match=r"\(networks differ\)"):
        sample("net.pkl")


def test_an_exported_folder_and_an_average_beside_its_description_make_the_same_images():
    denoiser = random_denoiser()
    denoiser.head = None  # as averages have none
    write_network(Path("net.pkl"), denoiser)
    network = read_portable("net.pkl")
    export_portable(network, None, Path("exported"))
    Path("averages").mkdir()
    write_description(Path("averages"), network)
    assert "in the program of its authors" in Path("exported/README.md").read_text()
    unet = {name: t.half() for name, t in network.denoiser.unet.state_dict().items()}
    save_file(unet, "averages/average.safetensors")
    sample("net.pkl")
    with pytest.raises(UserError, match="averages: a folder of 1 averages, expected one of them"):
        sample("averages")
    for name in ("exported", "averages/average.safetensors"):
        sample(name, "--out", "other")
        assert np.array_equal(pixels(), pixels("other"))
        for path in Path("other").iterdir():
            path.unlink()


def described(network, options=None, **changes):
    """Networks whose description has these changes."""
    networks = PortableNetworks("net.pkl", None, SampleOptions(**(options or {})))
    networks.__dict__["main"] = replace(network, **changes)
    return networks


def test_the_recommended_sampler_is_taken_and_options_come_first():
    network = read_portable(write_network(Path("net.pkl"), random_denoiser()))
    authors = described(network).sampling
    assert (authors.solver, authors.steps, authors.churn) == ("heun", 32, 0)
    assert (authors.sigma_min, authors.sigma_max, authors.rho) == (0.002, 80, 7)
    recommended = authors.model_copy(update={"steps": 5, "rho": 5.0})
    networks = described(network, {"steps": 4}, sampling=recommended)
    assert networks.sampling == recommended.model_copy(update={"steps": 4})


def test_guidance_is_that_of_the_training():
    """Its interval, and whether the network guides itself."""
    network = read_portable(write_network(Path("net.pkl"), random_denoiser()))
    assert (described(network).interval, described(network).guides_itself) == (None, False)
    trained = {"guidance_interval": (0.3, 5.0), "provenance": {"label_dropout": 0.1}}
    networks = described(network, **trained)
    assert (networks.interval, networks.guides_itself) == ((0.3, 5.0), True)


@pytest.mark.parametrize(
    ("dtype", "use_fp16", "on_gpu"),
    [(None, True, "fp16"), (None, False, "auto"), ("fp32", True, "fp32")],
)
def test_precision_is_that_of_the_training_on_a_gpu(dtype, use_fp16, on_gpu):
    write_network(Path("net.pkl"), random_denoiser(), use_fp16=use_fp16)
    networks = PortableNetworks("net.pkl", None, SampleOptions(dtype=dtype))
    assert networks.precision(torch.device("cuda")) == on_gpu
    assert networks.precision(CPU) == "fp32"


def test_auto_measures_and_keeps_the_choice(monkeypatch):
    for name in ("SECONDS", "RUN_SECONDS"):
        monkeypatch.setattr(precision, name, 0.0)
    sample(write_network(Path("net.pkl"), random_denoiser()), "--dtype", "auto")
    chosen = json.loads(Path("samples/precision.json").read_text())["precision"]
    assert json.loads(Path("samples/samples.json").read_text())["precision"] == chosen
