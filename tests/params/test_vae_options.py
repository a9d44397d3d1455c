"""The params of `edm2 vae train`: presets, options, changes of keys."""

from pathlib import Path

import pytest
import torch

from edm2.params import ParamsError, UserError
from edm2.params.presets import VAE_PRESETS
from edm2.params.tree import Params
from edm2.params.vae_options import VaeOptions
from edm2.vae.diffusers_format import format_problems
from edm2.vae.network import Autoencoder

LAYOUTS = {"f8d4": (8, 4), "f8d16": (8, 16), "f16d32": (16, 32)}


@pytest.fixture
def tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four files that have names of tars."""
    for number in range(4):
        (tmp_path / f"{number}.tar").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(*changes: str, images="{0..2}.tar", held_out="3.tar", preset="f8d4", side=None, ranks=1):
    return VaeOptions(images, held_out, preset, side, changes, False, None).params(ranks)


def problems(*changes: str, **options):
    with pytest.raises(ParamsError) as error:
        params(*changes, **options)
    return {problem.key: problem for problem in error.value.problems}


def test_all_presets_are_described() -> None:
    assert set(VAE_PRESETS) == set(LAYOUTS)


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("ranks", [1, 8])
def test_presets_work_and_have_the_layout_of_their_names(tars, preset: str, ranks: int) -> None:
    vae = params(preset=preset, ranks=ranks).vae
    assert (vae.downscale, vae.latent_channels) == LAYOUTS[preset]
    with torch.device("meta"):
        network = Autoencoder(vae)
    assert not list(format_problems(network, vae))


def test_options_and_changes_are_in_the_params(tars) -> None:
    changed = params("vae.channels=64", "vae.losses.mse=0.5", "runtime.device=cpu", side=64)
    assert isinstance(changed, Params)
    assert (changed.vae.channels, changed.vae.losses.mse) == (64, 0.5)
    assert (changed.dataset.resolution, changed.runtime.device) == (64, "cpu")
    assert changed.vae.images.shards == f"{tars}/{{0..2}}.tar"
    assert not changed.tracking.mlflow


def test_all_wrong_keys_and_values_are_named_at_once(tars) -> None:
    found = problems("vae.lrr=1", "lr=1", "features.lr=1", "vae.batch=many", "vae.loses.mse=1")
    assert "Did you mean lr?" in found["vae.lrr"].fix
    assert "vae.lr" in found["lr"].fix
    assert "vae or runtime" in found["features.lr"].allowed
    assert "whole number" in found["vae.batch"].allowed
    assert "losses" in found["vae.loses"].fix


def test_keys_that_an_option_sets_name_it(tars) -> None:
    found = problems("vae.images.shards=x.tar", "dataset.resolution=64")
    assert "--images" in found["vae.images.shards"].fix
    assert "--resolution" in found["dataset.resolution"].fix


@pytest.mark.parametrize(
    ("changes", "options", "key", "words"),
    [
        (["vae.backbone=classifier"], {}, "vae.backbone", "efficientnet"),
        (["vae.detector=classifier"], {}, "vae.detector", "inception"),
        (["vae.warmup_nimg=99999999"], {}, "vae.warmup_nimg", "duration_nimg"),
        ([], {"ranks": 3}, "vae.batch", "3 ranks"),
        ([], {"side": 100}, "--resolution", "multiple of 8"),
        ([], {"images": "{0..9}.tar"}, "--images", "files that exist"),
        ([], {"held_out": "{2..3}.tar"}, "--held-out", "--images"),
        (["vae.init.path=nowhere"], {}, "vae.init.path", "models/vae"),
        (["runtime.skip_images=nowhere"], {}, "runtime.skip_images", "exists"),
    ],
)
def test_wrong_combinations_are_refused(tars, changes, options, key: str, words: str) -> None:
    assert words in problems(*changes, **options)[key].allowed


def test_a_list_of_images_to_skip_is_for_tars(tars: Path) -> None:
    for name in ("images", "others"):
        (tars / name).mkdir()
    (tars / "list.txt").touch()
    skip = "runtime.skip_images=list.txt"
    assert params(skip, images="images").runtime.skip_images == str(tars / "list.txt")
    found = problems(skip, images="images", held_out="others")["runtime.skip_images"]
    assert "without tars in --images" in found.allowed


def test_held_out_images_are_in_no_folder_that_is_trained_on(tars: Path) -> None:
    (tars / "images/some").mkdir(parents=True)
    found = problems(images="images", held_out="images/some")
    assert "--images" in found["--held-out"].allowed
    assert "images/some is in" in found["--held-out"].fix


@pytest.mark.parametrize(
    ("changes", "preset", "words"),
    [
        (["vae.lr"], "f8d4", "KEY=VALUE"),
        (["vae.lr=[1"], "f8d4", "not valid YAML"),
        ([], "f8d40", "Did you mean f8d4?"),
    ],
)
def test_what_is_no_change_or_preset_is_refused(tars, changes, preset: str, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        params(*changes, preset=preset)
