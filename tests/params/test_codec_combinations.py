"""Combinations of params of the codec and the VAE that cannot work."""

import pytest


def test_images_must_be_at_least_as_large_as_ssim_windows(params, only_problem):
    changes = {
        "features.slices": 1,
        "vae.channel_mult": [1],
        "diffusion.channel_mult": [1],
        "vae.losses.pool": 1,
        "diffusion.attention_resolutions": None,
    }
    problem = only_problem({**changes, "dataset.resolution": 6})
    assert (problem.key, problem.value) == ("dataset.resolution", 6)
    assert "7" in problem.allowed
    params({**changes, "dataset.resolution": 7})


def test_the_weights_of_the_vaes_detector_must_exist(params, only_problem, tmp_path):
    changes = {"vae.detector": "inception", "vae.detector_path": "x.pth"}
    problem = only_problem(changes)
    assert problem.key == "vae.detector_path"
    assert f"{tmp_path}/x.pth" in problem.fix
    (tmp_path / "x.pth").touch()
    assert params(changes).vae.detector == "inception"
    nothing = only_problem({**changes, "vae.detector": None})
    assert (nothing.key, nothing.value) == ("vae.detector_path", "x.pth")


def test_attention_resolutions_are_those_of_the_codecs_latents(params, only_problem):
    """16 pixels are 4 latent pixels of the trained VAE, 2 of Stable Diffusion's, 16 of rgb."""
    for kind, channel_mult, side in (
        ("trained", [1, 2], 4),
        ("stable_diffusion", [1], 2),
        ("rgb", [1, 2, 2], 16),
    ):
        changes = {"codec.kind": kind, "diffusion.channel_mult": channel_mult}
        params({**changes, "diffusion.attention_resolutions": [side]})
        problem = only_problem({**changes, "diffusion.attention_resolutions": [2 * side]})
        assert (problem.key, problem.value) == ("diffusion.attention_resolutions", 2 * side)


def test_the_resolution_is_a_multiple_of_the_codecs_downscaling(only_problem):
    problem = only_problem(
        {
            "codec.kind": "stable_diffusion",
            "dataset.resolution": 20,
            "diffusion.channel_mult": [1],
            "diffusion.attention_resolutions": None,
        }
    )
    assert (problem.key, problem.value) == ("dataset.resolution", 20)
    assert "16 or 24" in problem.fix


def test_params_of_a_vae_that_is_not_trained_are_not_checked(params, problems):
    changes = {
        "codec.kind": "rgb",
        "diffusion.channel_mult": [1, 2, 2],
        "vae.log_nimg": 1,
        "vae.losses.pool": 3,
    }
    assert params(changes).vae.log_nimg == 1
    assert len(problems({**changes, "codec.kind": "trained"})) == 2


def test_levels_of_the_vae_must_fit_the_images(params, only_problem):
    """A high-resolution decoder halves them once more; a wavelet replaces a halving."""
    problem = only_problem(
        {
            "vae.high_resolution": True,
            "dataset.resolution": 20,
            "diffusion.channel_mult": [1],
            "features.slices": 1,
            "diffusion.attention_resolutions": None,
        }
    )
    assert (problem.key, problem.value) == ("dataset.resolution", 20)
    assert "16 or 24" in problem.fix
    single = {"vae.channel_mult": [1], "diffusion.attention_resolutions": [8]}
    assert only_problem({**single, "vae.wavelet": True}).key == "vae.wavelet"
    wide = only_problem({"vae.attention": True, "vae.channels": 100})
    assert (wide.key, wide.value) == ("vae.channels", 100)
    params({"vae.attention": True, "vae.channels": 96})
    params({"vae.attention": True, "vae.channels": 100, "vae.attention_heads": 1})


def test_groups_and_heads_of_the_vae_divide_its_widths(params, only_problem):
    """32, 64 and 64 channels."""
    for groups in (1, 32):
        params({"vae.norm_groups": groups})
    problem = only_problem({"vae.norm_groups": 64})
    assert (problem.key, problem.value) == ("vae.norm_groups", 64)
    assert "32, 64, 64" in problem.allowed
    assert "32" in problem.fix
    heads = {"vae.attention": True, "vae.attention_heads": 3}
    problem = only_problem(heads)
    assert (problem.key, problem.value) == ("vae.attention_heads", 3)
    assert "(64)" in problem.allowed
    params({**heads, "vae.attention": False})


def test_a_loss_of_the_image_must_have_a_weight_from_the_start(params, only_problem):
    """An adversarial loss that starts later is not enough."""
    no_losses = {"vae.losses.perceptual": 0.0, "vae.losses.pooled": 0.0}
    assert only_problem(no_losses).key == "vae.losses"
    adversarial = {**no_losses, "vae.losses.adversarial": 1.0}
    late = only_problem(adversarial)
    assert late.key == "vae.losses"
    assert "5120" in late.allowed
    params(
        {
            **adversarial,
            "vae.adversarial.discriminator_nimg": 0,
            "vae.adversarial.generator_nimg": 0,
        }
    )
    for name in ("low_pass", "mse"):
        params({**no_losses, f"vae.losses.{name}": 0.1})


def test_the_adversarial_loss_must_start_before_the_end(params, only_problem):
    late = {"vae.adversarial.generator_nimg": 20480}
    assert params(late).vae.losses.adversarial == 0
    problem = only_problem({**late, "vae.losses.adversarial": 0.5})
    assert (problem.key, problem.value) == ("vae.adversarial.generator_nimg", 20480)


def test_crops_must_be_large_enough_for_the_losses(params, only_problem):
    """16 pixels are 4 latent pixels; crops of 2 latent pixels have 8 pixels."""
    crop = {"vae.equivariance.crop": 0.5}
    params({**crop, "vae.losses.pool": 8})
    large = only_problem({**crop, "vae.losses.pool": 16})
    assert (large.key, "Nearest: 8" in large.fix) == ("vae.losses.pool", True)
    params({"vae.losses.pool": 16})
    for change, backbone in (({"vae.backbone": "vgg16"}, "vgg16"), ({"features.slices": 5}, "cl")):
        problem = only_problem({**crop, **change})
        assert (problem.key, problem.value) == ("vae.equivariance.crop", 0.5)
        assert backbone in problem.allowed
    params({**crop, "vae.losses.perceptual": 0.0, "features.slices": 5})


def test_scales_must_be_large_enough_for_the_losses(params, only_problem):
    """16 pixels are 4 latent pixels of 4 pixels each: 4, 8 and 12 pixels are left, of a crop 4."""
    scale = {"vae.equivariance.scale": 0.5}
    params(scale)
    params({**scale, "vae.equivariance.crop": 0.5})
    assert only_problem({**scale, "vae.losses.pool": 8}).key == "vae.losses.pool"
    vgg = only_problem({**scale, "vae.backbone": "vgg16"})  # it needs 16 pixels: none are smaller
    assert (vgg.key, vgg.value) == ("vae.equivariance.min_scale", 0.25)
    assert "vgg16" in vgg.allowed
    four = {**scale, "features.slices": 4}  # they need 8 pixels, half of the side
    assert "0.5" in only_problem(four).fix
    params({**four, "vae.equivariance.min_scale": 0.5})
    params({**four, "vae.losses.perceptual": 0.0})
    none = {**scale, "vae.equivariance.min_scale": 0.9}
    assert only_problem(none).key == "vae.equivariance.min_scale"


def write_vae(folder, config, weights=b""):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    if weights is not None:
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(weights)


VAE_CONFIG = '{"block_out_channels": [8, 8, 8], "latent_channels": 16}'


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (VAE_CONFIG, None),
        ("{", b""),
        ("[]", b""),
        ('{"latent_channels": 4}', b""),
        ('{"block_out_channels": 8, "latent_channels": 4}', b""),
    ],
)
def test_a_folder_without_a_complete_vae_is_refused(problems, tmp_path, config, weights):
    changes = {"codec.kind": "stable_diffusion", "codec.path": "sd"}
    assert f"{tmp_path}/sd" in problems(changes)[0].fix
    write_vae(tmp_path / "sd", config, weights)
    (problem,) = problems(changes)
    assert (problem.key, problem.value) == ("codec.path", "sd")


def test_the_layout_of_latents_is_read_from_the_vae(params, only_problem, tmp_path):
    """Three levels: 4× down. The paper has no constants for sixteen channels."""
    write_vae(tmp_path / "sd", VAE_CONFIG)
    changes = {"codec.kind": "stable_diffusion", "codec.path": "sd"}
    assert params(changes).codec.path == "sd"
    assert only_problem({**changes, "codec.normalization": "paper"}).key == "codec.normalization"
    problem = only_problem({**changes, "dataset.resolution": 18, "features.slices": 1})
    assert (problem.key, problem.value) == ("dataset.resolution", 18)


def test_the_papers_normalization_is_for_pixels_and_stable_diffusion(params):
    for kind, channel_mult in (("rgb", [1, 2, 2]), ("stable_diffusion", [1])):
        changes = {
            "codec.kind": kind,
            "codec.normalization": "paper",
            "diffusion.channel_mult": channel_mult,
            "diffusion.attention_resolutions": None,
        }
        assert params(changes).codec.normalization == "paper"


def test_only_decodes_of_stable_diffusion_are_truncated(params, only_problem):
    changes = {
        "codec.rounding": "truncate",
        "diffusion.channel_mult": [1],
        "diffusion.attention_resolutions": None,
    }
    assert only_problem({**changes, "codec.kind": "rgb"}).key == "codec.rounding"
    assert params({**changes, "codec.kind": "stable_diffusion"}).codec.rounding == "truncate"


def test_stable_diffusion_needs_its_package(params, only_problem, monkeypatch):
    monkeypatch.setattr("edm2.params.codec_checks.find_spec", lambda name: None)
    problem = only_problem({"codec.kind": "stable_diffusion", "dataset.resolution": 32})
    assert problem.key == "codec.kind"
    assert "diffusers" in problem.allowed
    assert "edm2[sd]" in problem.fix
    params({})


def test_vgg16_needs_sixteen_pixels_and_its_file(params, only_problem, tmp_path):
    changes = {"vae.backbone": "vgg16"}
    assert params(changes).vae.backbone == "vgg16"
    small = {
        "dataset.resolution": 8,
        "diffusion.channel_mult": [1],
        "diffusion.attention_resolutions": None,
    }
    assert only_problem({**changes, **small}).key == "vae.backbone"
    problem = only_problem({**changes, "vae.backbone_path": "vgg.pth"})
    assert f"{tmp_path}/vgg.pth" in problem.fix
    (tmp_path / "vgg.pth").touch()
    params({**changes, "vae.backbone_path": "vgg.pth"})


def test_without_tracked_averages_none_can_become_the_vae(only_problem):
    problem = only_problem({"vae.ema.ema_lengths": [], "vae.ema.length": 0.1})
    assert (problem.key, problem.value) == ("vae.ema.length", 0.1)
    assert "vae.ema.ema_lengths" in problem.allowed


def test_without_tracked_averages_their_other_options_have_no_effect(params):
    params({"vae.ema.ema_lengths": [], "vae.ema.snapshot_nimg": 7})
