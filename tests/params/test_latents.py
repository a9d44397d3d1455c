"""A source of latents: everything that needs images is refused at once, with what to do."""

import pytest
from latent_files import members, pack

LATENTS = {
    "dataset.source": "latents",
    "dataset.path": "latents.zip",
    "dataset.held_out": None,
    "dataset.resolution": 64,
    "codec.kind": "rgb",
    "diffusion.attention_resolutions": [32],
    "evaluation.detector": "inception",
    "evaluation.reference": "theirs.pkl",
    "evaluation.samples": 3000,
}


@pytest.fixture
def files(tmp_path):
    pack(tmp_path / "latents.zip", members([0, 1]))
    (tmp_path / "theirs.pkl").touch()


def test_nothing_that_needs_images_is_needed(params, files, tmp_path):
    assert not params(LATENTS).dataset.has_images
    (tmp_path / "folder").mkdir()
    assert not params({**LATENTS, "dataset.path": "folder"}).dataset.has_images


def test_all_that_needs_images_is_refused_at_once(problems, files):
    """With the defaults of the other fields."""
    named = {
        p.key: p for p in problems({k: LATENTS[k] for k in ("dataset.source", "dataset.path")})
    }
    assert set(named) == {
        "dataset.held_out",
        "codec.kind",
        "evaluation.detector",
        "evaluation.reference",
    }
    for key, words in {
        "dataset.held_out": "Set it to null",
        "codec.kind": "stable_diffusion",
        "evaluation.detector": "inception or dinov2",
        "evaluation.reference": "img512.pkl",
    }.items():
        assert words in f"{named[key].allowed} {named[key].fix}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset.path", None),
        ("dataset.path", "nowhere.zip"),
        ("dataset.held_out_path", "latents.zip"),
        ("dataset.label_field", "x"),
        ("evaluation.metrics", ["fd", "kid"]),
        ("evaluation.reference", "nowhere.pkl"),
    ],
)
def test_a_single_field_that_does_not_fit_is_named(only_problem, files, key, value):
    assert only_problem({**LATENTS, key: value}).key == key


def test_tars_for_the_vae_are_refused(problems, files, tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).touch()
    images = {"vae.images.shards": "a.tar", "vae.images.held_out": "b.tar"}
    assert [p.key for p in problems({**LATENTS, **images})] == ["vae.images.shards"]
