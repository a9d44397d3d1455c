"""Normalization and combination of the losses' gradients at the image."""

import pytest
import torch

from edm2.runtime.distributed import Ranks
from edm2.vae.gradient_normalization import combine_gradients, gradient_norms

# norms 5 and 12 of single images, 13 of both together
GRADIENTS = [torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 12.0]])]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("weight", [0.1, 3.0])
def test_the_combined_gradient_of_one_loss_has_its_direction_and_its_weight_as_norm(
    scale: float, weight: float
) -> None:
    gradient = torch.randn(4, 3, 8, 8)
    scaled = {"a": scale * gradient}
    combined = combine_gradients(scaled, {"a": weight}, gradient_norms([scaled]))
    expected = weight * gradient / gradient.norm() / 2  # √4 images
    torch.testing.assert_close(combined, expected, rtol=2e-2, atol=1e-6)


def test_each_loss_is_normalized_by_its_own_norm() -> None:
    gradients = {"a": GRADIENTS[0], "b": 1000 * GRADIENTS[1]}
    combined = combine_gradients(gradients, {"a": 1.0, "b": 0.5}, gradient_norms([gradients]))
    torch.testing.assert_close(combined, GRADIENTS[0] / 5 + 0.5 * GRADIENTS[1] / 12)


def test_without_norms_gradients_are_only_weighted() -> None:
    gradients = {"a": GRADIENTS[0], "b": GRADIENTS[1]}
    combined = combine_gradients(gradients, {"a": 1.0, "b": 0.5}, None)
    torch.testing.assert_close(combined, GRADIENTS[0] + 0.5 * GRADIENTS[1])


def test_a_zero_gradient_stays_zero() -> None:
    gradients = {"a": torch.zeros(2, 3)}
    combined = combine_gradients(gradients, {"a": 1.0}, gradient_norms([gradients]))
    assert torch.equal(combined, torch.zeros(2, 3))


def test_norms_are_over_all_microbatches() -> None:
    microbatches = [{"a": gradient} for gradient in GRADIENTS]
    assert float(gradient_norms(microbatches)["a"]) == pytest.approx((13**2 / 2) ** 0.5)
    both = [{"a": torch.cat(GRADIENTS) / 2}]  # of their mean
    assert float(gradient_norms(both)["a"]) == pytest.approx((13**2 / 2) ** 0.5)


def test_norms_are_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, each with a mean over its half; data parallelism averages their gradients."""
    module = "edm2.vae.gradient_normalization"
    monkeypatch.setattr(f"{module}.ranks", lambda: Ranks(0, 2, 0))
    monkeypatch.setattr(f"{module}.all_reduce", lambda squares: squares * 0 + 25 + 144)
    averaged = []
    for gradient in GRADIENTS:
        gradients = {"a": gradient}
        averaged.append(combine_gradients(gradients, {"a": 2.0}, gradient_norms([gradients])) / 2)
    norm = (13**2 / 2) ** 0.5
    torch.testing.assert_close(torch.cat(averaged), torch.cat(GRADIENTS) / norm)
