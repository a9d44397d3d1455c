"""params.yaml and the model, and every way in which a file can be wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny import ROOT, write_params

from edm2.params import Params, UserError, load
from edm2.params.loading import fields


def keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in tree.items():
        found |= {prefix + key} | (
            keys(value, f"{prefix}{key}.") if isinstance(value, dict) else set()
        )
    return found


def test_params_yaml_lists_exactly_the_fields_of_the_model():
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    free = tree["diffusion"]["per_config"]  # whatever fields a user puts there
    tree["diffusion"]["per_config"] = None
    assert set(free) <= set("ABCDEFG")
    assert keys(tree) == {key for key, _ in fields(Params)}


def test_every_field_is_described():
    assert [key for key, description in fields(Params) if len(description) < 5] == []


def test_load_gives_the_values_of_the_file():
    params = load(ROOT / "params.yaml")
    assert params.dataset.source == "digits"
    assert params.sweep.ema_lengths[0] == 0.02
    assert params.sweep.ema_lengths[-1] == 0.24
    assert len(params.sweep.ema_lengths) == 12


WRONG = [
    ("seed", "zero", ["seed", "'zero'", "integer"]),
    ("seed", True, ["seed", "True", "integer"]),
    ("seed", -1, ["seed", "-1", "0"]),
    ("configs", ["H"], ["configs.0", "'H'", "'A'", "'G'"]),
    ("configs", [], ["configs", "1 item"]),
    ("configs", ["G", "G"], ["configs", "once"]),
    ("vae.batch", "64", ["vae.batch", "'64'", "integer"]),
    ("vae.batch", 0, ["vae.batch", "greater than 0"]),
    ("vae.channel_mult", [1, 2.5], ["vae.channel_mult.1", "2.5"]),
    ("dataset.source", "cifar", ["dataset.source", "'cifar'", "'digits'", "'folder'"]),
    ("dataset.source", "folder", ["dataset.path", "None", "one sub-folder per class"]),
    ("dataset.path", "somewhere", ["dataset.path", "'somewhere'", "null"]),
    ("dataset.resolution", 18, ["dataset.resolution", "18", "multiple of 4", "16 or 20"]),
    ("codec.kind", "vqgan", ["codec.kind", "'vqgan'", "'trained'", "'stable_diffusion'", "'rgb'"]),
    ("codec.path", "sd", ["codec.path: 'sd'", "null with kind: trained", "stable_diffusion"]),
    ("codec.normalization", "imagenet", ["codec.normalization", "'dataset'", "'paper'"]),
    (
        "codec.normalization",
        "paper",
        ["codec.normalization: 'paper'", "dataset with kind: trained"],
    ),
    ("vae.backbone", "vgg19", ["vae.backbone", "'vgg19'", "'classifier'", "'vgg16'"]),
    ("vae.backbone_path", "vgg.pth", ["vae.backbone_path: 'vgg.pth'", "null with backbone: class"]),
    ("vae.images.shards", "a.tar", ["vae.images.shards, vae.images.held_out", "both null"]),
    ("vae.images.shards", "{a,b}.tar", ["shards: '{a,b}.tar'", "2 of 2 not found", "/a.tar"]),
    ("vae.images.held_out", "{a..b.tar", ["vae.images.held_out: '{a..b.tar'", "braces"]),
    ("vae.images.min_area", 0.0, ["vae.images.min_area", "0.0", "greater than 0"]),
    ("vae.images.min_area", 1.1, ["vae.images.min_area", "1.1", "less than or equal to 1"]),
    ("vae.images.flip", -0.1, ["vae.images.flip", "-0.1", "greater than or equal to 0"]),
    ("vae.images.flip", True, ["vae.images.flip", "True", "number"]),
    ("dataset.held_out", 1.0, ["dataset.held_out", "1.0", "less than 1"]),
    ("diffusion.channel_mult", [1, 2, 2, 2], ["diffusion.channel_mult", "4x4", "fewer levels"]),
    ("diffusion.size", "S", ["diffusion.size, diffusion.channels", "one of the two"]),
    ("diffusion.size", "XXXL", ["diffusion.size", "'XXXL'", "'XXS'"]),
    ("diffusion.channels", 100, ["diffusion.channels", "multiples of 64"]),
    (
        "diffusion.duration_nimg",
        179201,
        ["diffusion.duration_nimg", "multiple", "179200 or 179328"],
    ),
    ("diffusion.log_nimg", 100, ["diffusion.log_nimg", "100", "multiple of diffusion.batch (128)"]),
    ("diffusion.microbatch", 48, ["diffusion.microbatch", "48", "divisor"]),
    ("diffusion.lr_ref", -0.1, ["diffusion.lr_ref", "-0.1", "greater than 0"]),
    ("diffusion.dropout", 1.5, ["diffusion.dropout", "1.5", "less than 1"]),
    ("diffusion.magnitudes_nimg", 200, ["diffusion.magnitudes_nimg", "(128)", "128 or 256"]),
    ("diffusion.magnitudes_nimg", 128 * 2000, ["diffusion.magnitudes_nimg", "at most"]),
    ("diffusion.paper_dataset", "imagenet", ["'imagenet'", "'imagenet-512'", "'imagenet-64'"]),
    ("diffusion.overrides.group_norm", "no", ["diffusion.overrides.group_norm", "'no'", "'none'"]),
    ("diffusion.overrides.embedding_layers", 3, ["embedding_layers", "3", "1 or 2"]),
    ("diffusion.overrides.bias", "yes", ["diffusion.overrides.bias", "'yes'", "boolean"]),
    ("diffusion.overrides.loss_scaling", 0.0, ["overrides.loss_scaling", "0.0", "greater than 0"]),
    ("diffusion.per_config", {"H": {}}, ["diffusion.per_config.H", "'H'", "'A'", "'G'"]),
    ("diffusion.per_config", {"C": None}, ["diffusion.per_config.C", "None", "dictionary"]),
    (
        "diffusion.per_config",
        {"C": {"lr_reff": 1.0}},
        [
            "diffusion.per_config.C.lr_reff: 1.0: unknown key. Did you mean lr_ref? Known here: batch"
        ],
    ),
    (
        "diffusion.per_config",
        {"C": {"overrides": {"biass": True}}},
        ["diffusion.per_config.C.overrides.biass: True: unknown key. Did you mean bias?"],
    ),
    (
        "diffusion.per_config",
        {"C": {"lr_ref": -1.0}},
        ["diffusion.per_config.C.lr_ref: -1.0", "greater than 0", "learning rate"],
    ),
    (
        "diffusion.per_config",
        {"C": {"per_config": {"C": {"lr_ref": 1.0}}}},
        ["diffusion.per_config.C.per_config", "Remove it"],
    ),
    (
        "diffusion.per_config",
        {"G": {"batch": 96}},
        [
            "diffusion.duration_nimg (config G): 179200",
            "multiple of diffusion.batch (96)",
            "ema.snapshot_nimg (config G): 5120",
        ],
    ),
    (
        "diffusion.per_config",
        {"G": {"size": "S"}},
        ["diffusion.size, diffusion.channels (config G)", "one of the two"],
    ),
    ("diffusion.attention_resolutions", [7], ["diffusion.attention_resolutions", "7", "[4, 2]"]),
    ("vae.warmup_nimg", 99999, ["vae.warmup_nimg", "99999", "vae.duration_nimg (20480)"]),
    ("vae.attention", 1, ["vae.attention", "1", "boolean"]),
    ("vae.wavelet", "haar", ["vae.wavelet: 'haar'", "boolean", "Haar"]),
    ("vae.high_resolution", 1, ["vae.high_resolution: 1", "boolean", "one level more"]),
    ("vae.variance", -0.1, ["  vae.variance: -0.1: expected a number of at least 0, or learned"]),
    ("vae.variance", True, ["  vae.variance: True: expected a number of at least 0, or learned"]),
    ("vae.variance", "leaned", ["  vae.variance: 'leaned'", "or learned", "0: deterministic"]),
    ("vae.clamp", 0.0, ["vae.clamp: 0.0", "greater than 0", "null: any; 8 is usual"]),
    ("vae.losses.perceptual", -1.0, ["vae.losses.perceptual: -1.0", "greater than or equal to 0"]),
    ("vae.losses.low_pass", "0.5", ["vae.losses.low_pass: '0.5'", "number", "without quotes"]),
    ("vae.losses.kl", True, ["vae.losses.kl: True", "number"]),
    (
        "vae.losses.pool",
        3,
        ["vae.losses.pool: 3", "divisor of dataset.resolution (16)", "power of"],
    ),
    ("vae.losses.gradient_normalization", 1, ["gradient_normalization: 1", "boolean"]),
    ("vae.losses.flip", 1.5, ["vae.losses.flip: 1.5", "less than or equal to 1"]),
    ("vae.adversarial.channels", 0, ["vae.adversarial.channels: 0", "greater than 0"]),
    ("vae.adversarial.loss", "threshold", ["adversarial.loss: 'threshold'", "'hinge' or 'bce'"]),
    (
        "vae.adversarial.generator_loss",
        "mse",
        ["vae.adversarial.generator_loss: 'mse'", "'threshold', 'hinge' or 'bce'"],
    ),
    ("vae.adversarial.lecam", -0.1, ["vae.adversarial.lecam: -0.1", "0.1 is usual"]),
    ("vae.adversarial.lr", 0.0, ["vae.adversarial.lr: 0.0", "greater than 0"]),
    ("vae.adversarial.discriminator_nimg", -1, ["discriminator_nimg: -1", "greater than or equal"]),
    (
        "vae.adversarial.generator_nimg",
        64,
        [
            "vae.adversarial.generator_nimg: 64",
            "at least vae.adversarial.discriminator_nimg (2560)",
            "An untrained discriminator has nothing to say",
        ],
    ),
    ("vae.equivariance.flip", 2.0, ["vae.equivariance.flip: 2.0", "less than or equal to 1"]),
    (
        "vae.equivariance.flip_channels",
        2,
        ["flip_channels: 2", "less than half of vae.latent_channels (4)", "each of the two axes"],
    ),
    ("vae.equivariance.crop", -0.5, ["vae.equivariance.crop: -0.5", "greater than or equal to 0"]),
    ("vae.microbatch", 48, ["vae.microbatch: 48", "divisor of a rank's share of vae.batch (64)"]),
    (
        "vae.evaluate_nimg",
        100,
        ["vae.evaluate_nimg: 100", "multiple of vae.batch (64)", "64 or 128"],
    ),
    ("vae.lr_input", 0.0, ["vae.lr_input: 0.0", "greater than 0"]),
    ("vae.weight_decay", -1.0, ["vae.weight_decay: -1.0", "greater than or equal to 0"]),
    ("launch", "torchrun --nproc_per_node=3", ["diffusion.batch", "3 ranks", "126 or 129"]),
    ("launch", "torchrun --nnodes 2 --nproc-per-node 3", ["diffusion.batch", "6 ranks"]),
    ("ema.ema_lengths", [0.05, 0.29], ["ema.ema_lengths.1", "0.29", "0.2886", "0.05 to 0.25"]),
    ("ema.halflife_nimg", 0, ["ema.halflife_nimg", "greater than 0", "config A"]),
    ("ema.halflife_rampup", 0.0, ["ema.halflife_rampup", "0.0", "greater than 0"]),
    ("ema.snapshot_nimg", 409600, ["ema.snapshot_nimg", "409600", "at most", "more often"]),
    ("ema.snapshot_nimg", 128 * 300, ["ema.snapshot_nimg", "divisor", "very end"]),
    ("sweep.ema_lengths", [0.3], ["sweep.ema_lengths.0", "0.3", "0.2886"]),
    ("sweep.ema_lengths", "0.02 to 0.2", ["sweep.ema_lengths", "0.02...0.24 by 0.02"]),
    ("sweep.ema_lengths", "0.2...0.1 by 0.02", ["sweep.ema_lengths", "upwards"]),
    ("sweep.ema_lengths", [0.1, 0.05], ["sweep.ema_lengths", "rising"]),
    ("sweep.nimg", 5120, ["sweep.nimg", "5120", "tuple"]),
    ("sweep.nimg", [], ["sweep.nimg", "1 item"]),
    (
        "sweep.nimg",
        [5119],
        ["sweep.nimg: 5119", "multiples of ema.snapshot_nimg (5120)", "Nearest: 5120.", "(179200)"],
    ),
    ("guidance.strength", [2.0], ["guidance.strength: [2.0]", "guide: none", "Name a guide"]),
    ("guidance.strength", [-1.0], ["guidance.strength.0: -1.0", "greater than or equal to 0"]),
    ("guidance.guide", "self", ["guidance.guide: 'self'", "'snapshot'"]),
    ("guidance.guide", "snapshot", ["guidance.ema_length, guidance.nimg", "guides itself"]),
    ("guidance.guide", "unlabeled", ["diffusion.label_dropout: 0.0", "0.1 is usual"]),
    ("guidance.guide", "trained", ["guidance.changes: {}", "{conditional: false}"]),
    ("guidance.guide", "published", ["guidance.path: None", "pickles"]),
    ("guidance.changes", {"lr": 1.0}, ["guidance.changes.lr: 1.0", "unknown key", "lr_ref"]),
    ("guidance.changes", {"channels": "4"}, ["guidance.changes.channels: '4'", "integer"]),
    ("guidance.changes", {"channels": 4}, ["guidance.changes: {'channels': 4}", "guide: none"]),
    ("guidance.nimg", 5120, ["guidance.nimg: 5120", "null with guidance.guide: none"]),
    ("diffusion.label_dropout", 1.0, ["diffusion.label_dropout: 1.0", "less than 1"]),
    ("sweep.nimg", [5120, 179201], ["sweep.nimg: 179201", "end (179200)"]),
    ("sweep.nimg", [10240, 5120], ["sweep.nimg: [10240, 5120]", "rising"]),
    ("sweep.nimg", [5120, 5120], ["sweep.nimg: [5120, 5120]", "each once"]),
    ("sweep.nimg", [5120.0], ["sweep.nimg.0", "5120.0", "integer"]),
    ("sweep.nimg", "5120.0...10240.0 by 5120.0", ["sweep.nimg.0: 5120.0", "integer"]),
    ("sweep.nimg", "5120...10240 by 0.5e4", ["sweep.nimg.0: 5120.0", "integer"]),
    ("sweep.nimg", "10240...5120 by 5120", ["sweep.nimg", "upwards"]),
    ("sweep.tensors", "*-affine", ["sweep.tensors", "'*-affine'"]),
    ("sweep.tensors", [1], ["sweep.tensors.0", "1", "string"]),
    ("sweep.tensors", ["*-affine"], ["sweep.tensors_base: None", "with sweep.tensors"]),
    ("sweep.tensors_base", 0.1, ["sweep.tensors_base: 0.1", "null without"]),
    ("sweep.tensors_base", 0.3, ["sweep.tensors_base", "0.3", "0.2886"]),
    ("ema.source", "elsewhere", ["ema.source", "'elsewhere'", "'training'", "'published'"]),
    ("ema.source", "published", ["ema.path: None", "folder of published pickles"]),
    ("ema.path", "pickles", ["ema.path: 'pickles'", "null with source: training"]),
    ("evaluation.confirm", 1, ["evaluation.confirm", "1", "boolean"]),
    ("sampling.sigma_min", 100, ["sampling.sigma_min", "below sampling.sigma_max"]),
    ("sampling.solver", "dpm", ["sampling.solver: 'dpm'", "'heun'", "'euler'"]),
    ("sampling.churn", -1.0, ["sampling.churn: -1.0", "greater than or equal to 0"]),
    (
        "sampling.churn_interval",
        [50.0, 0.05],
        ["sampling.churn_interval: [50.0, 0.05]", "low below"],
    ),
    (
        "sampling.churn_interval",
        [90.0, 100.0],
        ["sampling.churn_interval: [90.0, 100.0]", "sampling.sigma_max (80.0)", "No step would"],
    ),
    ("sampling.churn_interval", [0.0, 0.001], ["churn_interval", "sampling.sigma_min (0.002)"]),
    ("sampling.churn_noise", 0.0, ["sampling.churn_noise: 0.0", "greater than 0"]),
    ("sampling.dtype", "float16", ["sampling.dtype: 'float16'", "'float32'", "'float64'"]),
    ("evaluation.metrics", ["kid"], ["evaluation.metrics: ['kid']", "fd, and others"]),
    ("evaluation.metrics", ["fd", "kid", "kid"], ["evaluation.metrics", "each once"]),
    ("evaluation.metrics", ["fd", "fid"], ["evaluation.metrics.1: 'fid'", "'recall'"]),
    ("evaluation.metrics", [], ["evaluation.metrics", "1 item"]),
    ("evaluation.neighbors", 0, ["evaluation.neighbors: 0", "greater than 0"]),
    ("evaluation.first_seed", 2**62, ["evaluation.first_seed: 4611686018427387904", "less than"]),
    ("evaluation.samples", 64, ["evaluation.samples", "64", "features.dims: 64"]),
    ("evaluation.metrics", ["fd", "is"], ["evaluation.metrics", "is with detector: inception"]),
    ("evaluation.detector", "clip", ["evaluation.detector: 'clip'", "'inception'", "'dinov2'"]),
    (
        "evaluation.detector",
        "inception",
        ["evaluation.samples: 1000: expected more than the feature dimensions (inception: 2048)"],
    ),
    ("evaluation.detector", "dinov2", ["evaluation.samples: 1000", "(dinov2: 1024)"]),
    (
        "evaluation.detector_path",
        "x.pth",
        ["evaluation.detector_path: 'x.pth': expected null with detector: classifier"],
    ),
    (
        "evaluation.reference",
        "x.npz",
        ["evaluation.reference: 'x.npz'", "null with detector: class"],
    ),
    ("runtime.device", "gpu", ["runtime.device", "'gpu'", "cpu, cuda"]),
    ("runtime.precision", "fp64", ["runtime.precision", "'fp64'", "'bf16'"]),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=[f"{k}={v}" for k, v, _ in WRONG])
def test_wrong_values_are_refused_with_key_value_and_way_out(tmp_path, key, value, said):
    path = write_params(tmp_path / "params.yaml", {key: value})
    with pytest.raises(UserError) as error:
        load(path)
    assert [text for text in [str(path), *said] if text not in str(error.value)] == []


def told(tmp_path, changes):
    with pytest.raises(UserError) as error:
        load(write_params(tmp_path / "params.yaml", changes))
    return str(error.value).splitlines()[1:]


def test_images_must_be_as_large_as_what_compares_them(tmp_path):
    changes = {
        "features.slices": 1,
        "vae.channel_mult": [1],
        "diffusion.channel_mult": [1],
        "vae.losses.pool": 1,
        "diffusion.attention_resolutions": None,
    }
    (line,) = told(tmp_path, {**changes, "dataset.resolution": 6})
    assert line.startswith("  dataset.resolution: 6: expected at least 7")
    load(write_params(tmp_path / "params.yaml", {**changes, "dataset.resolution": 7}))


PUBLISHED = {"evaluation.detector": "dinov2", "evaluation.samples": 2000}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"detector_path": "x.pth"},
            ["evaluation.detector_path: 'x.pth'", "exists", "/x.pth", "null"],
        ),
        ({"reference": "x.npz"}, ["evaluation.reference: 'x.npz'", "exists", "/x.npz", "null"]),
        (
            {"reference": "x.pkl"},
            [
                "evaluation.reference: 'x.pkl'",
                ".npz file with mu and sigma",
                "Pickles are not read",
                "numpy.savez",
            ],
        ),
        (
            {"reference": "there.npz", "measures": ["fd", "kid"]},
            [
                "evaluation.metrics: ['fd', 'kid']",
                "fd and is alone",
                "published statistics have none",
            ],
        ),
        ({"measures": ["fd", "is"]}, ["evaluation.metrics: ['fd', 'is']", "inception alone"]),
    ],
)
def test_files_of_published_detectors(tmp_path, monkeypatch, changes, said):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "there.npz").touch()
    (line,) = told(tmp_path, PUBLISHED | {f"evaluation.{k}": v for k, v in changes.items()})
    assert [text for text in said if text not in line] == []


def test_samples_follow_the_detector(tmp_path):
    """More than its dimensions, whatever the classifier has."""
    for detector, dims in (("inception", 2048), ("dinov2", 1024), ("classifier", 64)):
        changes = {"evaluation.detector": detector, "features.dims": 64}
        path = write_params(tmp_path / "params.yaml", {**changes, "evaluation.samples": dims + 1})
        assert load(path).detector_dims == dims
        (line,) = told(tmp_path, {**changes, "evaluation.samples": dims})
        assert f"evaluation.samples: {dims}: expected more than" in line


def test_the_inception_score_needs_an_image_for_each_of_its_ten_parts(tmp_path):
    changes = {
        "evaluation.detector": "inception",
        "evaluation.allow_singular": True,
        "evaluation.metrics": ["fd", "is"],
    }
    assert load(write_params(tmp_path / "params.yaml", {**changes, "evaluation.samples": 10}))
    (line,) = told(tmp_path, {**changes, "evaluation.samples": 9})
    assert "evaluation.samples: 9: expected at least 10 for is" in line


def test_latents_have_the_layout_of_their_codec(tmp_path):
    """16 pixels are 4 of the trained autoencoder, 2 of Stable Diffusion's, 16 of none."""
    for kind, channel_mult, side in (
        ("trained", [1, 2], 4),
        ("stable_diffusion", [1], 2),
        ("rgb", [1, 2, 2], 16),
    ):
        changes = {
            "codec.kind": kind,
            "diffusion.channel_mult": channel_mult,
            "diffusion.attention_resolutions": [side],
        }
        assert load(write_params(tmp_path / "params.yaml", changes)).codec.kind == kind
        changes["diffusion.attention_resolutions"] = [2 * side]
        (line,) = told(tmp_path, changes)
        assert line.startswith(f"  diffusion.attention_resolutions: {2 * side}: expected")
    changes = {
        "codec.kind": "stable_diffusion",
        "dataset.resolution": 20,
        "diffusion.channel_mult": [1],
        "diffusion.attention_resolutions": None,
    }
    (line,) = told(tmp_path, changes)
    assert "dataset.resolution: 20: expected a multiple of 8" in line
    assert "Nearest: 16 or 24" in line


def test_settings_of_a_training_that_is_not_to_run_are_not_checked(tmp_path):
    changes = {
        "codec.kind": "rgb",
        "diffusion.channel_mult": [1, 2, 2],
        "vae.log_nimg": 1,
        "vae.losses.pool": 3,
    }
    assert load(write_params(tmp_path / "params.yaml", changes)).vae.log_nimg == 1
    assert len(told(tmp_path, {**changes, "codec.kind": "trained"})) == 2


def test_levels_of_the_vae_must_fit_the_images(tmp_path):
    """A high-resolution decoder halves them once more; a wavelet is in place of a halving."""
    (line,) = told(
        tmp_path,
        {
            "vae.high_resolution": True,
            "dataset.resolution": 20,
            "diffusion.channel_mult": [1],
            "features.slices": 1,
            "diffusion.attention_resolutions": None,
        },
    )
    assert "dataset.resolution: 20: expected a multiple of 8" in line
    assert "vae.high_resolution once more" in line
    assert "Nearest: 16 or 24" in line
    changes = {"vae.wavelet": True, "vae.channel_mult": [1], "diffusion.attention_resolutions": [8]}
    (line,) = told(tmp_path, changes)
    assert line.startswith("  vae.wavelet: True: expected false with a single level")
    (line,) = told(tmp_path, {"vae.attention": True, "vae.channels": 100})
    assert line.startswith("  vae.channels: 100: expected a last level in multiples of 64")
    assert "got 200" in line
    load(write_params(tmp_path / "params.yaml", {"vae.attention": True, "vae.channels": 96}))


def test_the_vae_must_be_asked_for_images_from_the_start(tmp_path):
    """A discriminator that enters later cannot be the only one to ask."""
    nothing = {"vae.losses.perceptual": 0.0, "vae.losses.pooled": 0.0}
    (line,) = told(tmp_path, nothing)
    assert line.startswith("  vae.losses: ")
    assert "a weight above 0 for one of perceptual, adversarial, pooled, low_pass, plain" in line
    alone = {**nothing, "vae.losses.adversarial": 1.0}
    (line,) = told(tmp_path, alone)
    assert (
        "one more than adversarial, which enters at vae.adversarial.generator_nimg (5120)" in line
    )
    start = {"vae.adversarial.discriminator_nimg": 0, "vae.adversarial.generator_nimg": 0}
    load(write_params(tmp_path / "params.yaml", {**alone, **start}))
    for name in ("low_pass", "mse"):
        load(write_params(tmp_path / "params.yaml", {**nothing, f"vae.losses.{name}": 0.1}))


def test_the_adversarial_loss_must_enter_before_the_end(tmp_path):
    late = {"vae.adversarial.generator_nimg": 20480}
    assert load(write_params(tmp_path / "params.yaml", late)).vae.losses.adversarial == 0
    (line,) = told(tmp_path, {**late, "vae.losses.adversarial": 0.5})
    assert line.startswith(
        "  vae.adversarial.generator_nimg: 20480: expected less than vae.duration"
    )
    assert "or set vae.losses.adversarial to 0" in line


def test_crops_must_be_large_enough_for_the_losses(tmp_path):
    """16 pixels are 4 of the latent; crops of 2 of them are of 8 pixels."""
    crop = {"vae.equivariance.crop": 0.5}
    load(write_params(tmp_path / "params.yaml", {**crop, "vae.losses.pool": 8}))
    (line,) = told(tmp_path, {**crop, "vae.losses.pool": 16})
    assert line.startswith("  vae.losses.pool: 16: expected a divisor of the side of crops (8)")
    load(write_params(tmp_path / "params.yaml", {"vae.losses.pool": 16}))
    (line,) = told(tmp_path, {**crop, "vae.backbone": "vgg16"})
    assert line.startswith("  vae.equivariance.crop: 0.5: expected 0 with crops of 8 pixels")
    assert "the backbone vgg16 needs 16" in line
    (line,) = told(tmp_path, {**crop, "features.slices": 5})
    assert "the backbone classifier needs 16" in line
    unseen = {"vae.losses.perceptual": 0.0}
    load(write_params(tmp_path / "params.yaml", {**crop, **unseen, "features.slices": 5}))


def autoencoder(folder, config, weights=b""):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    if weights is not None:
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(weights)


WHOLE = '{"block_out_channels": [8, 8, 8], "latent_channels": 16}'


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (WHOLE, None),
        ("{", b""),
        ("[]", b""),
        ('{"latent_channels": 4}', b""),
        ('{"block_out_channels": 8, "latent_channels": 4}', b""),
    ],
)
def test_a_folder_that_is_no_autoencoder_is_refused(tmp_path, monkeypatch, config, weights):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    changes = {"codec.kind": "stable_diffusion", "codec.path": "sd"}
    assert f"Looked for {tmp_path}/sd" in told(tmp_path, changes)[0]
    autoencoder(tmp_path / "sd", config, weights)
    (line,) = told(tmp_path, changes)
    assert "codec.path: 'sd': expected a folder with config.json and" in line


def test_an_autoencoder_tells_its_layout(tmp_path, monkeypatch):
    """Three levels: 4× down. The paper has no constants for sixteen channels."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    autoencoder(tmp_path / "sd", WHOLE)
    changes = {"codec.kind": "stable_diffusion", "codec.path": "sd"}
    assert load(write_params(tmp_path / "params.yaml", changes)).codec.path == "sd"
    (line,) = told(tmp_path, {**changes, "codec.normalization": "paper"})
    assert "codec.normalization: 'paper': expected dataset with latents of 16 channels" in line
    (line,) = told(tmp_path, {**changes, "dataset.resolution": 18, "features.slices": 1})
    assert "dataset.resolution: 18: expected a multiple of 4" in line


def test_the_paper_normalizes_pixels_and_stable_diffusions_latents(tmp_path):
    for kind, channel_mult in (("rgb", [1, 2, 2]), ("stable_diffusion", [1])):
        changes = {
            "codec.kind": kind,
            "codec.normalization": "paper",
            "diffusion.channel_mult": channel_mult,
            "diffusion.attention_resolutions": None,
        }
        assert load(write_params(tmp_path / "params.yaml", changes)).codec.normalization == "paper"


def test_stable_diffusion_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr("edm2.params.codec_checks.find_spec", lambda name: None)
    changes = {"codec.kind": "stable_diffusion", "dataset.resolution": 32}
    (line,) = told(tmp_path, changes)
    assert "codec.kind" in line
    assert "pip install diffusers" in line
    load(ROOT / "params.yaml")


def test_vgg16_needs_sixteen_pixels_and_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    changes = {"vae.backbone": "vgg16"}
    assert load(write_params(tmp_path / "params.yaml", changes)).vae.backbone == "vgg16"
    small = {
        "dataset.resolution": 8,
        "diffusion.channel_mult": [1],
        "diffusion.attention_resolutions": None,
    }
    (line,) = told(tmp_path, {**changes, **small})
    assert "vae.backbone: 'vgg16': expected a dataset.resolution of at least 16" in line
    (line,) = told(tmp_path, {**changes, "vae.backbone_path": "vgg.pth"})
    assert f"Looked for {tmp_path}/vgg.pth" in line
    (tmp_path / "vgg.pth").touch()
    load(write_params(tmp_path / "params.yaml", {**changes, "vae.backbone_path": "vgg.pth"}))


def test_few_samples_are_refused_measure_by_measure(tmp_path):
    """What is too few for the Fréchet distance may be allowed; what has no value is not."""
    few = {
        "evaluation.samples": 3,
        "evaluation.metrics": ["fd", "kid", "recall"],
        "evaluation.allow_singular": True,
    }
    with pytest.raises(UserError) as error:
        load(write_params(tmp_path / "params.yaml", few))
    (line,) = str(error.value).splitlines()[1:]
    assert "evaluation.samples: 3: expected at least 4 for recall" in line
    enough = {**few, "evaluation.neighbors": 2}
    assert load(write_params(tmp_path / "params.yaml", enough)).evaluation.samples == 3
    with pytest.raises(UserError, match=r"evaluation.samples: 64: .*\(evaluation.allow_singular"):
        load(write_params(tmp_path / "params.yaml", {"evaluation.samples": 64}))
    one = {"evaluation.samples": 1, "evaluation.allow_singular": True}
    with pytest.raises(UserError, match="evaluation.samples: 1: expected two or more: one has"):
        load(write_params(tmp_path / "params.yaml", one))


def test_published_networks_need_their_folder_and_config_g(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    changes = {"ema.source": "published", "ema.path": "pickles"}
    with pytest.raises(UserError, match="ema.path: 'pickles'"):
        load(write_params(tmp_path / "params.yaml", changes))
    (tmp_path / "pickles").mkdir()
    assert load(write_params(tmp_path / "params.yaml", changes)).ema.path == "pickles"
    for configs in (["F"], ["F", "G"]):
        path = write_params(tmp_path / "params.yaml", {**changes, "configs": configs})
        with pytest.raises(
            UserError, match=r"configs: .*expected \[G\] with ema.source: published"
        ):
            load(path)


def test_times_of_published_networks_are_not_those_of_a_training_here(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    changes = {"ema.source": "published", "ema.path": ".", "sweep.nimg": [2147483000]}
    assert load(write_params(tmp_path / "params.yaml", changes)).sweep.nimg == (2147483000,)


@pytest.mark.parametrize("times", ["35840...179200 by 71680", [35840, 107520, 179200]])
def test_times_of_a_sweep_are_whole_images(tmp_path, times):
    found = load(write_params(tmp_path / "params.yaml", {"sweep.nimg": times})).sweep.nimg
    assert found == (35840, 107520, 179200)
    assert {type(nimg) for nimg in found} == {int}


def test_all_problems_are_told_at_once(tmp_path):
    path = write_params(tmp_path / "params.yaml", {"seed": "x", "vae.lr": "y", "launch": 1})
    with pytest.raises(UserError) as error:
        load(path)
    assert all(f"  {key}:" in str(error.value) for key in ("seed", "vae.lr", "launch"))


def test_what_only_follows_from_another_problem_is_not_told(tmp_path):
    path = write_params(tmp_path / "params.yaml", {"configs": ["H"]})
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("  lr_ref:", "  lr_reff:", "diffusion.lr_reff: [0-9.]+: {}lr_ref"),
        ("  bias: null", "  biass: true", "diffusion.overrides.biass: True: {}bias"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path, right, wrong, said):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace(right, wrong))
    with pytest.raises(UserError, match=said.format(r"unknown key\. Did you mean ")):
        load(path)


def test_a_clash_in_one_config_names_it_and_leaves_the_others_alone(tmp_path):
    """Nor is it one while that config is not to run."""
    changes = {"configs": ["B", "A"], "diffusion.per_config": {"A": {"batch": 96}}}
    with pytest.raises(UserError) as error:
        load(write_params(tmp_path / "params.yaml", changes))
    lines = str(error.value).splitlines()[1:]
    assert lines
    assert all("(config A)" in line for line in lines)
    changes = {"configs": ["B", "G"], "diffusion.per_config": {"A": {"batch": 96}}}
    assert load(write_params(tmp_path / "params.yaml", changes)).of("A").diffusion.batch == 96


def test_a_problem_of_all_configs_is_told_once(tmp_path):
    """Of some it is told once with their letters, though they have other settings of their own."""
    own = {"A": {"lr_ref": 0.001}, "B": {"lr_ref": 0.002, "log_nimg": 6400}}
    changes = {"configs": ["A", "B", "G"], "diffusion.log_nimg": 100, "diffusion.per_config": own}
    with pytest.raises(UserError) as error:
        load(write_params(tmp_path / "params.yaml", changes))
    (line,) = str(error.value).splitlines()[1:]
    assert "diffusion.log_nimg (config A, G): 100" in line
    changes = {"configs": ["A", "G"], "diffusion.log_nimg": 100, "diffusion.per_config": own}
    with pytest.raises(UserError, match=r"\n  diffusion.log_nimg: 100"):
        load(write_params(tmp_path / "params.yaml", changes))


def test_a_mistake_of_all_configs_is_told_once(tmp_path):
    changes = {"configs": ["A", "B", "G"], "diffusion.per_config": {}, "diffusion.log_nimg": 100}
    with pytest.raises(UserError) as error:
        load(write_params(tmp_path / "params.yaml", changes))
    assert str(error.value).count("diffusion.log_nimg") == 1


def test_fields_of_one_config_are_merged_into_the_others(tmp_path):
    """Switch by switch; what other configs say, and what stands for all, stays."""
    changes = {
        "diffusion.lr_ref": 0.02,
        "diffusion.overrides.bias": True,
        "diffusion.per_config": {
            "A": {"lr_ref": 0.5, "overrides": {"pixel_norm": True}},
            "B": {"channel_mult": [3], "size": None},
        },
    }
    params = load(write_params(tmp_path / "params.yaml", changes))
    a, b, g = (params.of(config).diffusion for config in "ABG")
    assert (a.lr_ref, a.channel_mult, b.lr_ref, b.channel_mult) == (0.5, (1, 2), 0.02, (3,))
    assert (a.overrides.bias, a.overrides.pixel_norm, a.overrides.attention) == (True, True, None)
    assert g == params.diffusion.model_copy(update={"per_config": {}})


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("  rho: 7\n", ""))
    with pytest.raises(UserError, match="sampling.rho: missing"):
        load(path)


def test_the_batch_must_be_shared_evenly_by_the_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"diffusion.batch: 128: .*3 ranks.*126 or 129"):
        load(ROOT / "params.yaml")


@pytest.mark.parametrize(("text", "said"), [("a: [1", "not valid YAML"), ("- 1", "the file")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, said):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        load(tmp_path / "params.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml: cannot be read"):
        load(tmp_path / "nowhere.yaml")


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    changes = {"dataset.source": "folder", "dataset.path": "pictures"}
    path = write_params(tmp_path / "params.yaml", changes)
    with pytest.raises(UserError, match=f"Looked for {tmp_path}/pictures"):
        load(path)
    (tmp_path / "pictures").mkdir()
    assert load(path).dataset.path == "pictures"


def test_photographs_are_too_small_for_large_crops(tmp_path):
    changes = {
        "dataset.source": "photos",
        "dataset.resolution": 160,
        "diffusion.attention_resolutions": [32],
    }
    with pytest.raises(UserError, match=r"dataset.resolution: 160: expected at most 128 with"):
        load(write_params(tmp_path / "params.yaml", changes))
    changes["dataset.resolution"] = 128
    assert load(write_params(tmp_path / "params.yaml", changes)).dataset.source == "photos"
    changes["dataset.path"] = "pictures"
    with pytest.raises(
        UserError, match="dataset.path: 'pictures': expected null with source: photos"
    ):
        load(write_params(tmp_path / "params.yaml", changes))


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Three files in a project; patterns(training, held out) is the text of a refusal."""
    for name in ("0", "1", "2"):
        (tmp_path / f"{name}.tar").touch()
    (tmp_path / "also.tar").symlink_to("1.tar")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def patterns(training, held_out):
        changes = {"vae.images.shards": training, "vae.images.held_out": held_out}
        try:
            load(write_params(tmp_path / "params.yaml", changes))
        except UserError as error:
            return "\n".join(str(error).splitlines()[1:])
        return ""

    return patterns


def test_shards_of_images_are_told_from_those_held_out(shards, tmp_path):
    assert shards("{0..1}.tar", "2.tar") == ""
    assert shards("[01].tar", f"{tmp_path}/2.tar") == ""
    for held_out in ("{1..2}.tar", "*[12].tar", "also.tar"):
        told = shards("{0..1}.tar", held_out)
        assert f"vae.images.held_out: {held_out!r}" in told
        assert f"{tmp_path}/1.tar is in both" in told


def test_shards_that_are_not_there_are_named(shards, tmp_path):
    assert f"1 of 4 not found, first {tmp_path}/3.tar" in shards("{0..3}.tar", "also.tar")
    assert "vae.images.held_out: 'held*.tar': expected files that are there" in shards(
        "0.tar", "held*.tar"
    )
    assert "expected both, or both null" in shards(None, "0.tar")


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        (ROOT / "params.yaml").read_text().replace("lr_input: 0.0001", "lr_input: 1e-4")
    )
    assert load(path).vae.lr_input == 1e-4


def test_params_are_checked_before_anything_heavy_is_imported():
    code = (
        "import sys, edm2.params as p; p.load('params.yaml'); import edm2.pipeline.runner; "
        "import stages.train_diffusion; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


def test_the_command_explains_every_field_and_refuses_wrong_files(tmp_path):
    command = [sys.executable, "-m", "edm2.params"]
    good = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert good.returncode == 0
    assert all(key in good.stdout for key, _ in fields(Params))
    wrong: Path = write_params(tmp_path / "params.yaml", {"seed": "x"})
    bad = subprocess.run([*command, str(wrong)], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "seed: 'x'" in bad.stderr
