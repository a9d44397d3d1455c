"""Guidance against its formula, on denoisers that are plain functions."""

import pytest
import torch

from edm2.sampling.guidance import guided, with_guide, without_labels

X = torch.linspace(-2, 2, 24).reshape(3, 2, 2, 2)
LABELS = torch.tensor([0, 4, 7])


def sigma(value):
    return torch.full((3,), value)


class Counted:
    """x·gain + label: what it is told of the class shows in its answer."""

    def __init__(self, gain):
        self.gain, self.batches = gain, []

    def __call__(self, x, sigma, labels):
        self.batches.append(len(x))
        return self.gain * x + labels[:, None, None, None] + sigma[:, None, None, None]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5, 3.0])
def test_the_answer_is_extrapolated_from_the_guide_through_the_network(strength):
    main, guide = Counted(1.0), Counted(0.25)
    found = guided(main, with_guide(main, guide), strength)(X, sigma(2.0), LABELS)
    shift = LABELS[:, None, None, None] + 2.0
    torch.testing.assert_close(found, (strength + 0.25 * (1 - strength)) * X + shift)


def test_without_guidance_the_guide_is_not_asked():
    main, guide = Counted(1.0), Counted(0.25)
    found = guided(main, with_guide(main, guide), 1.0)(X, sigma(2.0), LABELS)
    assert guide.batches == []
    assert torch.equal(found, Counted(1.0)(X, sigma(2.0), LABELS))


@pytest.mark.parametrize(
    ("level", "acts"), [(0.3, False), (0.31, True), (5.0, True), (5.01, False)]
)
def test_guidance_acts_inside_its_interval_alone(level, acts):
    main, guide = Counted(1.0), Counted(0.25)
    guided(main, with_guide(main, guide), 2.0, (0.3, 5.0))(X, sigma(level), LABELS)
    assert (guide.batches == [3]) == acts
    assert main.batches == [3]


def test_one_network_answers_with_and_without_the_class_in_one_batch():
    main = Counted(1.0)
    found = guided(main, without_labels(main), 3.0)(X, sigma(2.0), LABELS)
    assert main.batches == [6]
    known, unknown = LABELS[:, None, None, None].float(), -1.0
    torch.testing.assert_close(found, X + 2.0 + 3.0 * known - 2.0 * unknown)
