"""Guidance, compared with its formula for denoisers that are simple functions."""

import pytest
import torch

from edm2.sampling.guidance import guided, with_guide, without_labels

X = torch.linspace(-2, 2, 24).reshape(3, 2, 2, 2)
LABELS = torch.tensor([0, 4, 7])


def sigma(value):
    return torch.full((3,), value)


class FakeDenoiser:
    """gain·x + label + σ; records the sizes of its batches."""

    def __init__(self, gain):
        self.gain, self.batches = gain, []

    def __call__(self, x, sigma, labels):
        self.batches.append(len(x))
        return self.gain * x + labels[:, None, None, None] + sigma[:, None, None, None]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5, 3.0])
def test_the_output_is_extrapolated_from_the_guide_through_the_main_network(strength):
    main, guide = FakeDenoiser(1.0), FakeDenoiser(0.25)
    output = guided(main, with_guide(main, guide), strength)(X, sigma(2.0), LABELS)
    shift = LABELS[:, None, None, None] + 2.0
    torch.testing.assert_close(output, (strength + 0.25 * (1 - strength)) * X + shift)


def test_the_guide_is_not_evaluated_at_strength_one():
    main, guide = FakeDenoiser(1.0), FakeDenoiser(0.25)
    output = guided(main, with_guide(main, guide), 1.0)(X, sigma(2.0), LABELS)
    assert guide.batches == []
    assert torch.equal(output, FakeDenoiser(1.0)(X, sigma(2.0), LABELS))


@pytest.mark.parametrize(
    ("level", "active"), [(0.3, False), (0.31, True), (5.0, True), (5.01, False)]
)
def test_guidance_is_active_only_inside_its_interval(level, active):
    main, guide = FakeDenoiser(1.0), FakeDenoiser(0.25)
    guided(main, with_guide(main, guide), 2.0, (0.3, 5.0))(X, sigma(level), LABELS)
    assert (guide.batches == [3]) == active
    assert main.batches == [3]


def test_without_labels_evaluates_both_outputs_in_one_batch():
    main = FakeDenoiser(1.0)
    output = guided(main, without_labels(main), 3.0)(X, sigma(2.0), LABELS)
    assert main.batches == [6]
    label, no_class = LABELS[:, None, None, None].float(), -1.0
    torch.testing.assert_close(output, X + 2.0 + 3.0 * label - 2.0 * no_class)
