"""Which networks and options `edm2 sample` takes without a project, and which it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
from published_networks import LATENTS, random_denoiser, write_network
from published_pickles import StabilityVAEEncoder
from sampling_command import pixels, sample

from edm2.params import UserError
from edm2.pipeline.portable_networks import PortableNetworks, is_portable
from edm2.pipeline.sample_options import SampleOptions

pytestmark = pytest.mark.usefixtures("outside_projects")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1"], "--steps: 1: expected"),
        (["--solver", "dpm"], "--solver: 'dpm': expected 'heun' or 'euler'"),
        (["--churn", "-1"], "--churn: -1.0: expected"),
        (["--churn", "inf"], "--churn: inf: expected a finite number"),
        (["--batch", "0"], "--batch: 0: expected"),
        (["--dtype", "float16"], "--dtype: 'float16': expected .*fp16"),
        (["--device", "gpu"], "--device: 'gpu': expected .*'cuda'"),
        (["--config", "G"], "--config G: has no effect"),
        (["--classes", "3"], "--classes 3: expected classes below 3"),
        (["--strength", "2"], "--strength 2: expected --guide"),
        (["--guide", "net.pkl"], "--guide net.pkl: has no effect at strength 1"),
        (["--subdirs", "--format", "shards"], "--subdirs: has no effect"),
        (["--guide", "none.pkl", "--strength", "2"], "none.pkl: does not exist"),
    ],
)
def test_what_is_impossible_is_refused_by_its_option(options, message):
    write_network(Path("net.pkl"), random_denoiser())
    with pytest.raises(UserError, match=message):
        sample("net.pkl", *options)
    assert not Path("samples").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"resolution": 32}, r"shape \[3, 32, 32\], expected \[3, 16, 16\]"),
        ({"in_channels": 4}, r"shape \[4, 16, 16\], expected \[3, 16, 16\]"),
        ({"num_classes": 4}, "4 classes, expected 3"),
    ],
)
def test_a_guide_of_other_data_is_refused(shape, message):
    write_network(Path("net.pkl"), random_denoiser())
    write_network(Path("guide.pkl"), random_denoiser(**shape), encoder=None)
    with pytest.raises(UserError, match=f"--guide guide.pkl: .*{message}"):
        sample("net.pkl", "--guide", "guide.pkl", "--strength", 2)


def test_a_guide_of_other_latents_is_refused():
    for name, scale in (("net.pkl", 1.0), ("guide.pkl", 2.0)):
        denoiser = random_denoiser(**{**LATENTS, "resolution": 16})
        write_network(Path(name), denoiser, encoder=StabilityVAEEncoder(scale, 0))
    networks = PortableNetworks("net.pkl", "guide.pkl", SampleOptions())
    with pytest.raises(UserError, match="--guide guide.pkl: its latents have .* other constants"):
        networks.guide(Path("guide.pkl"))


def test_an_unconditional_network_takes_no_classes():
    path = write_network(Path("net.pkl"), random_denoiser(num_classes=0))
    with pytest.raises(UserError, match="--classes: expected a conditional network"):
        sample(path, "--classes", 0)


def test_a_preset_takes_its_networks_and_its_strength():
    Path("files").mkdir()
    main, guide = random_denoiser(), random_denoiser(1)
    write_network(Path("files/edm2-img64-s-1073741-0.045.pkl"), main)
    write_network(Path("files/edm2-img64-xs-0134217-0.110.pkl"), guide)
    preset = ("--preset", "edm2-img64-s-autog-fid", "--networks", "files")
    sample(None, *preset)
    files = [str(path) for path in sorted(Path("files").iterdir())]
    sample(files[0], "--guide", files[1], "--strength", 1.7, "--out", "named")
    assert np.array_equal(pixels(), pixels("named"))
    sample(None, *preset, "--strength", 1, "--out", "other")
    assert not np.array_equal(pixels(), pixels("other"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected NETWORK, or --preset"),
        (["a.pkl", "--preset", "edm2-img64-s-fid"], "a.pkl: --preset .* names its networks"),
        (["--preset", "edm2-img64-s-fid", "--guide", "a"], "--guide a: --preset"),
        (["--preset", "edm2-img64-s-fid", "--strength", "2"], "--strength: --preset .* no guide"),
        (["a.pkl", "--networks", "files"], "--networks: has no effect without --preset"),
        (["--preset", "none"], "--preset none: no such preset"),
        (["none.pkl"], "none.pkl: does not exist"),
        (["folder/none.pkl"], "folder/none.pkl: does not exist"),
        (["average.safetensors"], "average.safetensors: does not exist, or not a network"),
        ([".", "--seeds", "3"], ": not a network that describes itself"),
        (["a.pkl", "--seeds", "5-3"], "--seeds.*'5-3': expected the first seed before the last"),
    ],
)
def test_a_network_or_a_preset_is_named(run, arguments, message):
    result = run("sample", *arguments)
    assert result.status == 2
    assert "Traceback" not in result.err
    assert re.search(message, " ".join(result.err.split()))


def test_presets_are_listed(run):
    result = run("sample", "--list-presets")
    lines = result.out.splitlines()
    assert (result.status, len(lines)) == (0, 36)
    assert any(
        line.split() == ["edm2-img64-s-fid", "FID", "1.58", "edm2-img64-s-1073741-0.075.pkl"]
        for line in lines
    )


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("net.pkl", True),
        ("none.pkl", True),
        ("exported", True),
        ("plain", False),
        ("exported/a.safetensors", True),
        ("plain/a.safetensors", False),
        ("owner/name", True),
        ("owner/name-0.130", True),
        ("owner/none.safetensors", False),
        ("models/sweep/G-0/x.safetensors", False),
        ("nothing", False),
    ],
)
def test_networks_that_describe_themselves_are_recognized(name, portable):
    for file in (
        "net.pkl",
        "exported/config.json",
        "exported/a.safetensors",
        "plain/a.safetensors",
    ):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    assert is_portable(name) == portable
