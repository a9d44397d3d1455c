"""The balance of the losses' gradients at the image."""

import pytest
import torch

from edm2.runtime.distributed import Ranks
from edm2.vae.balance import balanced, gradient_norms

PULLS = [torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 12.0]])]  # norms 5, 12, together 13


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("weight", [0.1, 3.0])
def test_a_loss_pulls_with_its_weight_in_its_direction(scale: float, weight: float) -> None:
    pull = torch.randn(4, 3, 8, 8)
    part = {"a": scale * pull}
    found = balanced(part, {"a": weight}, gradient_norms([part]))
    torch.testing.assert_close(found, weight * pull / pull.norm(), rtol=2e-2, atol=1e-6)


def test_losses_add_up_each_with_its_own_norm() -> None:
    part = {"a": PULLS[0], "b": 1000 * PULLS[1]}
    found = balanced(part, {"a": 1.0, "b": 0.5}, gradient_norms([part]))
    torch.testing.assert_close(found, PULLS[0] / 5 + 0.5 * PULLS[1] / 12)


def test_without_norms_gradients_are_taken_as_they_are() -> None:
    found = balanced({"a": PULLS[0], "b": PULLS[1]}, {"a": 1.0, "b": 0.5}, None)
    torch.testing.assert_close(found, PULLS[0] + 0.5 * PULLS[1])


def test_no_gradient_stays_none() -> None:
    part = {"a": torch.zeros(2, 3)}
    assert torch.equal(balanced(part, {"a": 1.0}, gradient_norms([part])), torch.zeros(2, 3))


def test_norm_is_that_of_all_microbatches() -> None:
    """Each a mean over its half: half of each is its part of the whole mean's gradient."""
    parts = [{"a": pull} for pull in PULLS]
    assert float(gradient_norms(parts)["a"]) == pytest.approx(13 / 2)


def test_norm_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, each with a mean over its half; data parallelism averages what they find."""
    monkeypatch.setattr("edm2.vae.balance.ranks", lambda: Ranks(0, 2, 0))
    monkeypatch.setattr("edm2.vae.balance.all_reduce", lambda squares: squares * 0 + 25 + 144)
    found = []
    for pull in PULLS:
        part = {"a": pull}
        found.append(balanced(part, {"a": 2.0}, gradient_norms([part])) / 2)
    torch.testing.assert_close(torch.cat(found), 2 * torch.cat(PULLS) / 13)
