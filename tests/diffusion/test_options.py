"""Every switch and every number of the training does something: flipped alone, it shows.

The flipped network starts from the tensors of the other one wherever both have them, so that it is
not the order of random numbers that makes the difference.
"""

import copy

import numpy as np
import pytest
import torch
from tiny_denoiser import BATCH, CLASSES, make_batch, make_task

from edm2.data.normalization import Normalization
from edm2.diffusion.training import batches
from edm2.params import resolution
from edm2.params.configs import CONFIGS
from edm2.params.diffusion import Overrides
from edm2.params.resolution import contradictions

FLIPS = [  # one step each
    ("A", "noise_embedding", "fourier"),
    ("C", "noise_embedding", "positional"),
    ("C", "noise_embedding", "mp_fourier"),
    ("G", "noise_embedding", "fourier"),
    ("E", "embedding_layers", 1),
    ("G", "embedding_layers", 2),
    ("C", "bias", True),
    ("G", "bias", True),
    ("A", "ones_channel", True),
    ("G", "ones_channel", False),
    ("A", "scaled_labels", True),
    ("G", "scaled_labels", False),
    ("A", "group_norm", "no_mean"),
    ("E", "group_norm", "none"),
    ("G", "group_norm", "no_mean"),
    ("A", "pixel_norm", True),
    ("G", "pixel_norm", False),
    ("A", "attention", "cosine"),
    ("C", "attention", "dot"),
    ("A", "attention_fp32", False),
    ("C", "attention_fp32", True),
    ("A", "initialization", "uniform"),
    ("G", "initialization", "uniform"),
    ("C", "weight_norm", "forward"),
    ("D", "weight_norm", "forced"),
    ("G", "weight_norm", "forward"),
    ("F", "magnitude_preserving", True),
    ("G", "magnitude_preserving", False),
    ("A", "output_silu", False),
    ("G", "output_silu", True),
    ("A", "uncertainty", True),
    ("G", "uncertainty", False),
    # Adam's steps do not depend on the scale of gradients, unless that comes near its ε of 1e-8
    ("A", "loss_scaling", 1e-8),
    ("G", "loss_scaling", 1e-8),
]
NUMBERS = {
    "lr_ref": 0.02,
    "lr_decay_batches": 0.25,
    "lr_rampup_nimg": BATCH,
    "p_mean": 0.5,
    "p_std": 2.0,
    "paper_dataset": "imagenet-64",
    "dropout": 0.5,
    "attention_resolutions": (8, 4),
    "adam_beta2": 0.5,
}
STEPS = {"adam_beta2": 2}  # the first step of Adam has the size of the rate whatever β₂
TRACKER = {"average"}  # changes no network; tests/stages/test_pipeline.py sees what it changes
PRECISION = {"attention_fp32": "bf16"}  # in fp32 there is nothing to choose


class Latents:
    """Forty latents of some spread."""

    shape = (4, 8, 8)
    normalization = Normalization(torch.zeros(4), torch.ones(4))

    def __len__(self):
        return 40

    def batch(self, indices):
        mean = np.random.default_rng(0).normal(size=(40, *self.shape))[indices]
        labels = torch.tensor(indices) % CLASSES
        return torch.from_numpy(mean).float(), torch.full((len(indices), *self.shape), 0.3), labels


def trained(config, field, start=None, **changes):
    """What a network makes of noisy images after its first step(s), and what it started from."""
    task = make_task(
        config, precision=PRECISION.get(field, "fp32"), shaken=field != "initialization", **changes
    )
    assert not list(contradictions(task.config))
    own = task.denoiser.state_dict()
    if start is not None:
        same = {name for name in own.keys() & start.keys() if own[name].shape == start[name].shape}
        task.denoiser.load_state_dict(own | {name: start[name] for name in same})
    before = copy.deepcopy(task.denoiser.state_dict())
    stream = batches(Latents(), task.config, 0.0, 0)(0)
    for step in range(1, STEPS.get(field, 1) + 1):
        task.step(next(stream), step * BATCH)
    data, noise, ln_sigma, labels = make_batch()
    with torch.no_grad():
        return task.denoiser.eval()(data + noise, ln_sigma.exp(), labels), before


def differ(found, expected):
    """By more than the rounding of float32."""
    return float((found - expected).norm() / expected.norm()) > 1e-5


def test_the_tables_have_every_switch_and_every_number():
    assert {field for _, field, _ in FLIPS} | TRACKER == set(Overrides.model_fields)
    assert {*resolution.NUMBERS, "lr_decay_batches"} - {"batch"} <= NUMBERS.keys()


@pytest.mark.parametrize(("config", "field", "value"), FLIPS)
def test_a_switch_flipped_alone_changes_the_network(config, field, value):
    """And set to what the config has anyway, it changes nothing at all."""
    expected, start = trained(config, field)
    given = None if field == "initialization" else start
    same, _ = trained(config, field, given, overrides={field: getattr(CONFIGS[config], field)})
    assert torch.equal(same, expected)
    found, _ = trained(config, field, given, overrides={field: value})
    assert differ(found, expected)


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_changed_alone_changes_the_network(field):
    expected, start = trained("G", field)
    assert torch.equal(trained("G", field, start)[0], expected)
    found, _ = trained("G", field, start, **{field: NUMBERS[field]})
    assert differ(found, expected)


def test_why_some_need_more_than_a_step_of_usual_size():
    """A first step shows neither Adam's β₂ nor the usual scales of the loss."""
    expected, start = trained("G", None)
    for changes in ({"adam_beta2": 0.5}, {"overrides": {"loss_scaling": 100.0}}):
        assert not differ(trained("G", None, start, **changes)[0], expected)
