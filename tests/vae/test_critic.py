"""Training of the discriminator."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_autoencoder import BATCH, CPU, EVERYTHING, make_backbone, vae_params

from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.vae.critic import Critic
from edm2.vae.losses import Seen

WIDTHS = (8, 16)


def make_critic(seed: int = 0, **changes: Any) -> Critic:
    return Critic(vae_params(EVERYTHING, changes), make_backbone(), seed, CPU)


def make_seen(step: int = 0, apart: float = 1.0, count: int = BATCH) -> Seen:
    """Features of images, and of reconstructions that differ from them by a shift."""
    rng = torch.Generator().manual_seed(step)
    real = [torch.randn(count, w, s, s, generator=rng) for w, s in zip(WIDTHS, (8, 4), strict=True)]
    shift = torch.linspace(-apart, apart, 16)[:, None, None]
    return Seen({}, {}, (real, [x.roll(1, 0) + shift[: x.shape[1]] for x in real]))


def part(seen: Seen, of: slice) -> Seen:
    real, fake = ([x[of] for x in slices] for slices in seen.slices)
    return Seen({}, {}, (real, fake))


def values(critic: Critic) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in critic.discriminator.state_dict().items()}


def changed(critic: Critic, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, x in values(critic).items() if not torch.equal(x, before[name])}


def test_nothing_happens_before_its_time() -> None:
    """It starts with the first batch after `discriminator_nimg`."""
    critic = make_critic(adversarial__discriminator_nimg=16, adversarial__generator_nimg=16)
    before = values(critic)
    for nimg in (8, 16):
        assert critic.step([make_seen()], nimg) == {}
    assert changed(critic, before) == set()
    assert critic.step([make_seen()], 24) != {}
    assert {"heads.0.3.weight", "heads.1.3.weight"} <= changed(critic, before)


@pytest.mark.parametrize(("kind", "expected"), [("hinge", 1.0), ("bce", np.log(2))])
def test_first_step_of_a_discriminator_that_says_zero(kind: str, expected: float) -> None:
    critic = make_critic(adversarial__loss=kind)
    found = {name: float(value) for name, value in critic.step([make_seen()], 8).items()}
    assert found == pytest.approx(
        {
            "discriminator/loss": expected,
            "discriminator/images": 0,
            "discriminator/reconstructions": 0,
            "discriminator/accuracy": 0,
            "discriminator/nonfinite_gradients": 0,
        }
    )


def test_metrics_are_of_scores_before_the_step() -> None:
    critic, seen = make_critic(adversarial__lecam=0.0), make_seen()
    critic.step([seen], 8)
    with torch.no_grad():
        real, fake = (critic.discriminator(x).double().numpy() for x in seen.slices)
    loss = (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2
    right = ((real > 0).mean() + (fake < 0).mean()) / 2
    expected = {
        "loss": loss,
        "images": real.mean(),
        "reconstructions": fake.mean(),
        "accuracy": right,
    }
    found = critic.step([seen], 16)
    for name, value in expected.items():
        assert float(found[f"discriminator/{name}"]) == pytest.approx(value, rel=1e-4), name
    assert real.mean() > fake.mean()


def test_it_learns_to_tell_them_apart() -> None:
    critic = make_critic(duration_nimg=8000, adversarial__lr=0.01, adversarial__lecam=0.0)
    for step in range(40):
        found = critic.step([make_seen(step)], BATCH * (step + 1))
    assert float(found["discriminator/accuracy"]) > 0.9
    assert float(found["discriminator/loss"]) < 0.7


def test_learning_rate_has_its_own_peak_and_the_schedule_of_the_autoencoder() -> None:
    """Half of the warm-up; the first step of Adam has the size of the rate, in weights from zero."""
    critic = make_critic(warmup_nimg=16, weight_decay=0.0, adversarial__lr=0.03)
    critic.step([make_seen()], 8)
    assert critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.015)
    sizes = critic.discriminator.heads[0][3].weight.detach().abs()
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.015), rtol=1e-2, atol=0)
    critic.step([make_seen()], 16 + (160 - 16) // 2)  # half of the cosine
    assert critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.015)


def test_weights_decay() -> None:
    """By rate × decay, beside Adam's step."""
    found = []
    for decay in (0.0, 0.5):
        critic = make_critic(weight_decay=decay, adversarial__lr=0.01)
        before = values(critic)["heads.0.0.weight"]
        critic.step([make_seen()], 8)
        found.append(values(critic)["heads.0.0.weight"])
    torch.testing.assert_close(found[1], found[0] - 0.01 * 0.5 * before)


def test_lecam_adds_its_term_times_its_weight() -> None:
    seen, anchors = make_seen(), torch.tensor([0.5, -0.25])
    losses = []
    for weight in (0.0, 0.3):
        critic = make_critic(adversarial__lecam=weight)
        critic.discriminator.anchors.copy_(anchors)
        losses.append(float(critic.step([seen], 8)["discriminator/loss"]))
    # D says 0: (0 + 0.25)² + (0 − 0.5)²
    assert losses[1] - losses[0] == pytest.approx(0.3 * (0.25**2 + 0.5**2), rel=1e-5)


def test_anchors_follow_the_scores() -> None:
    """Decay 0.9 from zero, by the scores that were logged; the very first ones are 0."""
    critic, anchors = make_critic(), np.zeros(2)
    for step in range(4):
        found = critic.step([make_seen(step)], BATCH * (step + 1))
        scores = [float(found[f"discriminator/{n}"]) for n in ("images", "reconstructions")]
        anchors = 0.9 * anchors + 0.1 * np.array(scores)
        np.testing.assert_allclose(critic.discriminator.anchors, anchors, rtol=1e-4, atol=1e-7)
    assert np.abs(anchors).min() > 1e-3


def test_microbatches_give_the_step_of_the_batch() -> None:
    whole, parts = make_critic(), make_critic()
    for step in range(3):
        seen, nimg = make_seen(step), BATCH * (step + 1)
        expected = whole.step([seen], nimg)
        found = parts.step([part(seen, slice(k, k + 2)) for k in range(0, BATCH, 2)], nimg)
        assert {n: float(v) for n, v in found.items()} == pytest.approx(
            {n: float(v) for n, v in expected.items()}, rel=1e-4, abs=1e-5
        )
        for p, q in zip(
            parts.discriminator.parameters(), whole.discriminator.parameters(), strict=True
        ):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parts.discriminator.anchors, whole.discriminator.anchors)


def test_gradients_that_are_no_numbers_are_counted_and_left_out() -> None:
    critic, seen = make_critic(), make_seen()
    critic.step([seen], 8)
    seen.slices[0][0][0, 0, 0, 0] = torch.inf
    found = critic.step([seen], 16)
    assert int(found["discriminator/nonfinite_gradients"]) > 0
    assert all(p.isfinite().all() for p in critic.discriminator.parameters())


def test_its_start_is_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    one = values(make_critic(3))
    torch.manual_seed(6)
    assert changed(make_critic(3), one) == set()
    assert {"heads.0.0.weight", "heads.1.0.weight"} <= changed(make_critic(4), one)


def test_resumed_it_goes_on_alike(tmp_path) -> None:
    """From a file: weights, Adam's moments and anchors."""
    whole, resumed = make_critic(), make_critic(seed=9)
    for step in range(2):
        whole.step([make_seen(step)], BATCH * (step + 1))
    save_tree(tmp_path / "checkpoint", copy.deepcopy(whole.state_dict()))
    resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
    for step in range(2, 5):
        found = [c.step([make_seen(step)], BATCH * (step + 1)) for c in (whole, resumed)]
        assert {n: float(v) for n, v in found[0].items()} == {
            n: float(v) for n, v in found[1].items()
        }
    assert changed(resumed, values(whole)) == set()
