"""The published combinations of networks: names of files, and where they come from."""

from urllib.error import URLError

import pytest

from edm2.features import weights
from edm2.params import UserError
from edm2.pipeline.published_presets import fetch_networks, published_preset, published_presets

# EMA length without guidance for FID and FD-DINOv2, then EMA length and strength with an unconditional
# guide: EDM2 Tables 2, 3 and 5; times are 2^20 images × 2048, 1792, 1280, 896
MODELS = {
    "img512-xs": ("2147483", ("0.135", "0.200"), ("0.045", 1.4), ("0.150", 1.7)),
    "img512-s": ("2147483", ("0.130", "0.190"), ("0.025", 1.4), ("0.085", 1.9)),
    "img512-m": ("2147483", ("0.100", "0.155"), ("0.030", 1.2), ("0.015", 2.0)),
    "img512-l": ("1879048", ("0.085", "0.155"), ("0.015", 1.2), ("0.035", 1.7)),
    "img512-xl": ("1342177", ("0.085", "0.155"), ("0.020", 1.2), ("0.030", 1.7)),
    "img512-xxl": ("0939524", ("0.070", "0.150"), ("0.015", 1.2), ("0.015", 1.7)),
}
PIXELS = {  # Table 3
    "img64-s": "1073741-0.075",
    "img64-m": "2147483-0.060",
    "img64-l": "1073741-0.040",
    "img64-xl": "0671088-0.040",
}
AUTOGUIDANCE = {  # arXiv 2406.02507, Table 1
    "img512-s-autog-fid": ("img512-s-2147483-0.070", "img512-xs-0134217-0.125", 2.10),
    "img512-s-autog-dino": ("img512-s-2147483-0.120", "img512-xs-0134217-0.165", 2.45),
    "img512-xxl-autog-fid": ("img512-xxl-0939524-0.075", "img512-m-0268435-0.155", 2.05),
    "img512-xxl-autog-dino": ("img512-xxl-0939524-0.130", "img512-m-0268435-0.205", 2.30),
    "img512-s-uncond-autog-fid": (
        "img512-s-uncond-2147483-0.070",
        "img512-xs-uncond-0134217-0.110",
        2.85,
    ),
    "img512-s-uncond-autog-dino": (
        "img512-s-uncond-2147483-0.090",
        "img512-xs-uncond-0134217-0.125",
        2.90,
    ),
    "img64-s-autog-fid": ("img64-s-1073741-0.045", "img64-xs-0134217-0.110", 1.70),
    "img64-s-autog-dino": ("img64-s-1073741-0.105", "img64-xs-0134217-0.175", 2.20),
}


def test_the_presets_are_those_of_the_papers():
    expected = {name: (net, guide, w) for name, (net, guide, w) in AUTOGUIDANCE.items()}
    for model, (time, plain, *guided) in MODELS.items():
        for metric, length, (guided_length, strength) in zip(
            ("fid", "dino"), plain, guided, strict=True
        ):
            expected[f"{model}-{metric}"] = (f"{model}-{time}-{length}", None, 1.0)
            expected[f"{model}-guid-{metric}"] = (
                f"{model}-{time}-{guided_length}",
                f"img512-xs-uncond-2147483-{guided_length}",
                strength,
            )
    expected |= {f"{model}-fid": (f"{model}-{rest}", None, 1.0) for model, rest in PIXELS.items()}
    files = {
        f"edm2-{name}": (f"edm2-{net}.pkl", guide and f"edm2-{guide}.pkl", strength)
        for name, (net, guide, strength) in expected.items()
    }
    presets = published_presets().values()
    assert {p.name: (p.network, p.guide, p.strength) for p in presets} == files
    assert len(files) == 36


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edm2-img512-xxl-fid", 1.91),
        ("edm2-img512-xxl-guid-dino", 33.09),
        ("edm2-img64-xl-fid", 1.33),
        ("edm2-img64-s-autog-fid", 1.01),
    ],
)
def test_they_have_the_published_value(name, value):
    assert published_presets()[name].value == value


def test_an_unknown_preset_is_an_error_with_a_similar_name():
    with pytest.raises(UserError, match="edm2-img512-s-fdi: .*edm2-img512-s-fid"):
        published_preset("edm2-img512-s-fdi")


def test_without_file_and_connection_the_address_and_the_path_are_named(
    tmp_path, monkeypatch, capsys
):
    def unreachable(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(weights, "urlopen", unreachable)
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path))
    file = "edm2-img512-xs-2147483-0.135.pkl"
    address = f"https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions/{file}"
    with pytest.raises(UserError, match=rf"{address}: .*{tmp_path / file}.*--networks"):
        fetch_networks(published_preset("edm2-img512-xs-fid"), None)
    note = capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in note
    assert "no checksum" in note


def test_files_are_taken_from_the_cache_or_from_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    preset = published_preset("edm2-img512-s-autog-fid")
    for folder in (tmp_path / "cache", tmp_path / "folder"):
        folder.mkdir()
        (folder / preset.network).write_bytes(b"network")
    with pytest.raises(UserError, match=rf"has no {preset.guide}.*posthoc-.*{preset.guide}"):
        fetch_networks(preset, tmp_path / "folder")
    with pytest.raises(UserError, match=rf"no {preset.network} and no {preset.guide}.* and https:"):
        fetch_networks(preset, tmp_path)
    for folder, named in ((tmp_path / "cache", None), (tmp_path / "folder",) * 2):
        (folder / str(preset.guide)).write_bytes(b"guide")
        assert fetch_networks(preset, named) == (folder / preset.network, folder / preset.guide)
    assert capsys.readouterr().out == ""
