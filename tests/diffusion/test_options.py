"""Every option and every number of a training config has an effect when it is changed alone.

The changed network starts from the tensors of the unchanged one wherever both have them, so that the
order of random numbers does not cause the difference.
"""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from tiny_denoiser import BATCH, CLASSES, CPU, RUNTIME, make_batch, make_task

from edm2.data.normalization import Normalization
from edm2.diffusion.batches import batches
from edm2.params import resolution
from edm2.params.configs import CONFIGS
from edm2.params.diffusion import Overrides
from edm2.params.resolution import contradictions

pytestmark = pytest.mark.slow

OPTIONS = [  # config, option, other value; one training step each
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
STEPS = {"adam_beta2": 2}  # the size of Adam's first step does not depend on β₂
NOT_TRAINING = {"average"}  # has no effect on the network; see tests/stages/test_pipeline.py
PRECISION = {"attention_fp32": "bf16"}  # in fp32 it has no effect


class Latents:
    """Forty random latents with a standard deviation."""

    shape = (4, 8, 8)
    normalization = Normalization(torch.zeros(4), torch.ones(4))

    def __len__(self):
        return 40

    def batch(self, indices):
        mean = np.random.default_rng(0).normal(size=(40, *self.shape))[indices]
        labels = torch.tensor(indices) % CLASSES
        return torch.from_numpy(mean).float(), torch.full((len(indices), *self.shape), 0.3), labels


def trained(config, field, start=None, **changes):
    """The output of a network after its first step(s), and the tensors that it started from.

    Args:
        field: the option or number under test.
        start: tensors to start from, where the network has them in the same shape.
    """
    task = make_task(
        config,
        precision=PRECISION.get(field, "fp32"),
        perturbed=field != "initialization",
        **changes,
    )
    assert not list(contradictions(task.config))
    state = task.denoiser.state_dict()
    if start is not None:
        common = state.keys() & start.keys()
        same = {name for name in common if state[name].shape == start[name].shape}
        task.denoiser.load_state_dict(state | {name: start[name] for name in same})
    initial = copy.deepcopy(task.denoiser.state_dict())
    stream = batches(Latents(), task.objective, BATCH, 0.0, 0, RUNTIME, CPU)(0)
    for step in range(2, STEPS.get(field, 1) + 2):  # the rate of the first would be 0
        task.step(next(stream), step * BATCH)
    data, noise, ln_sigma, labels = make_batch()
    with torch.no_grad():
        return task.denoiser.eval()(data + noise, ln_sigma.exp(), labels), initial


def unchanged(config, field):
    """As `trained`; fields whose networks are trained alike share one."""
    return _unchanged(config, field if field in {*PRECISION, *STEPS, "initialization"} else None)


@cache
def _unchanged(config, field):
    expected, start = trained(config, field)
    if field != "initialization":
        assert torch.equal(trained(config, field, start)[0], expected)
    return expected, start


def differ(output, expected):
    """Whether outputs differ by more than the rounding of float32."""
    return float((output - expected).norm() / expected.norm()) > 1e-5


def test_the_tables_here_have_all_options_and_numbers():
    seams = {"backbone", "objective"}  # of one member each; tests/plugins adds others
    fields = {field for _, field, _ in OPTIONS}
    assert fields | NOT_TRAINING | seams == set(Overrides.model_fields)
    assert {*resolution.NUMBERS, "lr_decay_batches"} - {"batch"} <= NUMBERS.keys()


@pytest.mark.parametrize(("config", "field", "value"), OPTIONS)
def test_each_option_has_an_effect(config, field, value):
    """Overriding it with the config's own value has none."""
    expected, start = unchanged(config, field)
    if field == "initialization":
        start = None
    same, _ = trained(config, field, start, overrides={field: getattr(CONFIGS[config], field)})
    assert torch.equal(same, expected)
    output, _ = trained(config, field, start, overrides={field: value})
    assert differ(output, expected)


@pytest.mark.parametrize("field", NUMBERS)
def test_each_number_has_an_effect(field):
    expected, start = unchanged("G", field)
    output, _ = trained("G", field, start, **{field: NUMBERS[field]})
    assert differ(output, expected)


def test_one_step_does_not_depend_on_adam_beta2_or_usual_loss_scales():
    """So the tables above have a second step for β₂ and a tiny loss scaling."""
    expected, start = unchanged("G", None)
    for changes in ({"adam_beta2": 0.5}, {"overrides": {"loss_scaling": 100.0}}):
        assert not differ(trained("G", None, start, **changes)[0], expected)
