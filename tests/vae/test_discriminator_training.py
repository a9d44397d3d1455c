"""Training of the discriminator."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_autoencoder import BATCH, CPU, FULL_VAE, floats, make_backbone, vae_params

from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.vae.discriminator_training import DiscriminatorTask
from edm2.vae.losses import LossOutput

WIDTHS = (8, 16)


def make_task(seed: int = 0, **changes: Any) -> DiscriminatorTask:
    return DiscriminatorTask(vae_params(FULL_VAE, changes), make_backbone(), seed, CPU)


def make_output(step: int = 0) -> LossOutput:
    """Features of images, and of reconstructions: the same, but permuted and shifted."""
    rng = torch.Generator().manual_seed(step)
    real = [torch.randn(BATCH, w, s, s, generator=rng) for w, s in zip(WIDTHS, (8, 4), strict=True)]
    shift = torch.linspace(-1, 1, 16)[:, None, None]
    return LossOutput({}, {}, {}, real, [x.roll(1, 0) + shift[: x.shape[1]] for x in real])


def microbatch(output: LossOutput, part: slice) -> LossOutput:
    real, fake = ([x[part] for x in m] for m in (output.real_inputs, output.fake_inputs))
    return LossOutput({}, {}, {}, real, fake)


def copied_state(task: DiscriminatorTask) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in task.discriminator.state_dict().items()}


def changed(task: DiscriminatorTask, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that differ from those in `before`."""
    after = task.discriminator.state_dict()
    return {name for name, x in after.items() if not torch.equal(x, before[name])}


def test_training_starts_with_the_first_batch_after_discriminator_nimg() -> None:
    task = make_task(adversarial__discriminator_nimg=16, adversarial__generator_nimg=16)
    before = copied_state(task)
    for nimg in (8, 16):
        assert task.step([make_output()], nimg) == {}
    assert changed(task, before) == set()
    assert task.step([make_output()], 24) != {}
    assert {"heads.0.6.weight", "heads.1.6.weight"} <= changed(task, before)


@pytest.mark.parametrize(("kind", "expected"), [("hinge", 1.0), ("bce", np.log(2))])
def test_metrics_of_the_first_step_are_those_of_zero_scores(kind: str, expected: float) -> None:
    metrics = make_task(adversarial__loss=kind).step([make_output()], 8)
    assert floats(metrics) == pytest.approx(
        {
            "discriminator/loss": expected,
            "discriminator/images": 0,
            "discriminator/reconstructions": 0,
            "discriminator/accuracy": 0,
            "discriminator/nonfinite_gradients": 0,
        }
    )


def test_metrics_are_of_scores_before_the_step() -> None:
    task, output = make_task(adversarial__lecam=0.0), make_output()
    task.step([output], 8)
    with torch.no_grad():
        maps = (task.discriminator(x) for x in (output.real_inputs, output.fake_inputs))
        heads = [[x.double().numpy() for x in pair] for pair in zip(*maps, strict=True)]
    of_heads = {
        "loss": lambda x, y: (np.maximum(0, 1 - x).mean() + np.maximum(0, 1 + y).mean()) / 2,
        "images": lambda x, y: x.mean(),
        "reconstructions": lambda x, y: y.mean(),
        "accuracy": lambda x, y: ((x > 0).mean() + (y < 0).mean()) / 2,
    }
    expected = {name: np.mean([f(x, y) for x, y in heads]) for name, f in of_heads.items()}
    metrics = task.step([output], 16)
    for name, value in expected.items():
        assert float(metrics[f"discriminator/{name}"]) == pytest.approx(value, rel=1e-4), name
    assert expected["images"] > expected["reconstructions"]


def test_the_discriminator_learns_to_distinguish_images_from_reconstructions() -> None:
    task = make_task(duration_nimg=8000, adversarial__lr=0.01, adversarial__lecam=0.0)
    for step in range(40):
        metrics = task.step([make_output(step)], BATCH * (step + 1))
    assert float(metrics["discriminator/accuracy"]) > 0.9
    assert float(metrics["discriminator/loss"]) < 0.7


def test_the_learning_rate_has_its_own_peak_and_the_schedule_of_the_vae() -> None:
    """In the middle of the warm-up. Adam's first step moves weights by the learning rate."""
    task = make_task(warmup_nimg=16, weight_decay=0.0, adversarial__lr=0.03)
    task.step([make_output()], 8)
    assert task.optimizer.param_groups[0]["lr"] == pytest.approx(0.015)
    sizes = task.discriminator.heads[0][-1].weight.detach().abs()
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.015), rtol=1e-2, atol=0)
    task.step([make_output()], 16 + (160 - 16) // 2)  # in the middle of the cosine
    assert task.optimizer.param_groups[0]["lr"] == pytest.approx(0.015)


def test_weights_decay_by_learning_rate_times_weight_decay() -> None:
    weights = []
    for decay in (0.0, 0.5):
        task = make_task(weight_decay=decay, adversarial__lr=0.01)
        before = copied_state(task)["heads.0.0.weight"]
        task.step([make_output()], 8)
        weights.append(copied_state(task)["heads.0.0.weight"])
    torch.testing.assert_close(weights[1], weights[0] - 0.01 * 0.5 * before)


def test_lecam_adds_its_term_times_its_weight() -> None:
    output, anchors = make_output(), torch.tensor([0.5, -0.25])
    losses = []
    for weight in (0.0, 0.3):
        task = make_task(adversarial__lecam=weight)
        task.discriminator.anchors.copy_(anchors)
        losses.append(float(task.step([output], 8)["discriminator/loss"]))
    # scores are 0: (0 + 0.25)² + (0 − 0.5)²
    assert losses[1] - losses[0] == pytest.approx(0.3 * (0.25**2 + 0.5**2), rel=1e-5)


def test_anchors_follow_the_scores() -> None:
    """Running means of the logged scores, with decay 0.9 from zero; the first scores are 0."""
    task, anchors = make_task(), np.zeros(2)
    for step in range(4):
        metrics = task.step([make_output(step)], BATCH * (step + 1))
        scores = [float(metrics[f"discriminator/{n}"]) for n in ("images", "reconstructions")]
        anchors = 0.9 * anchors + 0.1 * np.array(scores)
        np.testing.assert_allclose(task.discriminator.anchors, anchors, rtol=1e-4, atol=1e-7)
    assert np.abs(anchors).min() > 1e-3


def test_microbatches_give_the_step_of_the_batch() -> None:
    whole, split = make_task(), make_task()
    for step in range(3):
        output, nimg = make_output(step), BATCH * (step + 1)
        expected = whole.step([output], nimg)
        metrics = split.step(
            [microbatch(output, slice(k, k + 2)) for k in range(0, BATCH, 2)], nimg
        )
        assert floats(metrics) == pytest.approx(floats(expected), rel=1e-4, abs=1e-5)
        for p, q in zip(
            split.discriminator.parameters(), whole.discriminator.parameters(), strict=True
        ):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(split.discriminator.anchors, whole.discriminator.anchors)


def test_nonfinite_gradients_are_counted_and_skipped() -> None:
    task, output = make_task(), make_output()
    task.step([output], 8)
    output.real_inputs[0][0, 0, 0, 0] = torch.inf
    metrics = task.step([output], 16)
    assert int(metrics["discriminator/nonfinite_gradients"]) > 0
    assert all(x.isfinite().all() for x in task.discriminator.state_dict().values())
    assert math.isfinite(task.step([make_output()], 24)["discriminator/loss"])


def test_without_lecam_there_are_no_anchors_to_move() -> None:
    task = make_task(adversarial__lecam=0.0)
    for step in (1, 2):
        task.step([make_output(step)], BATCH * step)
    assert task.discriminator.anchors.tolist() == [0, 0]


def test_the_initialization_depends_on_the_seed_only() -> None:
    torch.manual_seed(5)
    initial = copied_state(make_task(3))
    torch.manual_seed(6)
    assert changed(make_task(3), initial) == set()
    assert {"heads.0.0.weight", "heads.1.0.weight"} <= changed(make_task(4), initial)


def of_images(output: LossOutput, step: int) -> LossOutput:
    """Images, and the same with a pattern; losses of features have no part."""
    images = torch.rand(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step)) * 2 - 1
    pattern = 0.5 * (-1.0) ** torch.arange(16)
    return replace(output, real_inputs=[images], fake_inputs=[images + pattern])


def test_a_copy_of_the_backbone_learns_and_resumes_to_the_same_bits(tmp_path) -> None:
    changes = {"adversarial__trainable_backbone": True, "adversarial__lr": 0.02}
    whole, resumed = make_task(**changes), make_task(seed=9, **changes)
    before = copied_state(whole)
    for step in range(12):
        if step == 4:
            save_tree(tmp_path / "checkpoint", copy.deepcopy(whole.state_dict()))
            resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
        output, nimg = of_images(make_output(), step), BATCH * (step + 1)
        metrics = floats(whole.step([output], nimg))
        if step >= 4:
            assert floats(resumed.step([output], nimg)) == metrics
    assert metrics["discriminator/accuracy"] > 0.75
    assert changed(resumed, whole.discriminator.state_dict()) == set()
    untrained = {"backbone.embed.weight", "backbone.head.weight"}
    assert untrained.isdisjoint(changed(whole, before))
    assert {"backbone.stages.0.0.0.weight", "backbone.stages.1.1.0.weight"} <= changed(
        whole, before
    )


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path) -> None:
    """Resumed from a file with weights, Adam's moments and anchors."""
    whole, resumed = make_task(), make_task(seed=9)
    for step in range(2):
        whole.step([make_output(step)], BATCH * (step + 1))
    save_tree(tmp_path / "checkpoint", copy.deepcopy(whole.state_dict()))
    resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
    for step in range(2, 5):
        expected, metrics = (
            floats(task.step([make_output(step)], BATCH * (step + 1))) for task in (whole, resumed)
        )
        assert metrics == expected
    assert changed(resumed, whole.discriminator.state_dict()) == set()
