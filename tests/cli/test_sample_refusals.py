"""What `edm2 sample` refuses in a project before it makes an image."""

from pathlib import Path

import pytest
from project_sampling import NETWORK, OTHER, sample

from edm2.params import UserError


def test_impossible_requests_are_refused(project, run):
    project()
    with pytest.raises(UserError, match="--classes 10: expected classes below 10"):
        sample("--classes", "10")
    with pytest.raises(UserError, match=r"params.yaml: expected a network"):
        sample(network="params.yaml")
    with pytest.raises(UserError, match="--config F: .*Use --config G"):
        sample("--config", "F")
    with pytest.raises(UserError, match="--config F: .*configs"):
        sample("--config", "F", network="elsewhere.safetensors")
    with pytest.raises(UserError, match="--config H: no such training config"):
        sample("--config", "H", network="elsewhere.safetensors")
    result = run("sample", NETWORK, "--seeds", "9-3")
    assert result.status == 2
    assert "--seeds" in result.err
    assert "'9-3'" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guide", NETWORK], f"--guide .*{NETWORK}: .*strength 1"),
        (
            ["--strength", "2"],
            "--strength 2: expected --guide, or .* diffusion.label_dropout above 0",
        ),
    ],
)
def test_guidance_without_effect_is_refused(project, options, message):
    project()
    with pytest.raises(UserError, match=message):
        sample(*options)


def test_an_unconditional_network_takes_no_labels(project):
    project(diffusion__conditional=False)
    with pytest.raises(UserError, match=r"--classes: .*diffusion\.conditional: false"):
        sample("--classes", "1")
    with pytest.raises(UserError, match="--strength 2: expected --guide"):
        sample("--strength", "2")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--strength", "nan"),
        ("--strength", "inf"),
        ("--strength", "-1"),
        ("--strength", "much"),
        ("--seeds", "3,4,3"),
        ("--seeds", "0-99999999999999999999"),
        ("--seeds", "-1"),
        ("--classes", "1,,2"),
    ],
)
def test_meaningless_values_are_refused(empty_project, run, option, value):
    empty_project({})
    result = run("sample", NETWORK, option, value)
    assert result.status == 2
    assert option in result.err
    assert f"{value!r}: expected" in result.err


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_wrong_network_creates_no_folder(project, precision):
    folder = project(runtime__precision=precision)
    for network in (NETWORK.replace("0.1.", "0.7."), "params.yaml"):
        with pytest.raises(UserError, match=f"{network}: expected a network"):
            sample(network=network)
    assert not (folder / "samples").exists()
    sample("--seeds", "0")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes(data)


def swap(path):
    other = path.with_name(Path(OTHER).name)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip, NETWORK),
        (swap, NETWORK),
        (flip, "models/vae/network.safetensors"),
        (flip, "models/vae/manifest.json"),
        (flip, "data/latents/manifest.json"),
    ],
)
def test_a_file_that_is_not_as_written_makes_no_images(project, damage, file):
    folder = project()
    damage(folder / file)
    with pytest.raises(UserError, match=rf"{file}: .*dvc repro"):
        sample("--seeds", "0")
    assert not (folder / "samples").exists()


def test_a_link_to_a_network_is_compared_where_the_link_is(project, tmp_path):
    """As DVC puts links to its cache in a project, if it is set so."""
    folder = project()
    (folder / NETWORK).rename(tmp_path / "cached")
    (folder / NETWORK).symlink_to(tmp_path / "cached")
    sample("--seeds", "0")
    flip(tmp_path / "cached")
    with pytest.raises(UserError, match=NETWORK):
        sample("--seeds", "0")
