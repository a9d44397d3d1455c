"""Training of the classifier."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edm2.data.images import ImageShards
from edm2.features.classifier import Classifier
from edm2.features.training import Accuracy, ClassifierTask, accuracy, batches, shift
from edm2.params.errors import NotFiniteError
from edm2.params.features import Features
from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.runtime.randomness import generator

CPU = torch.device("cpu")
RUNTIME = SimpleNamespace(workers=0, reading="random")


@pytest.mark.parametrize("down", [-2, -1, 0, 2])
@pytest.mark.parametrize("right", [-1, 0, 1, 2])
def test_shift_moves_the_image_and_repeats_its_edges(down: int, right: int) -> None:
    image = torch.arange(3 * 4 * 5).reshape(3, 4, 5)
    rng = SimpleNamespace(integers=lambda low, high, size: np.array([down, right]))
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
    expected = padded[:, 2 - down : 6 - down, 2 - right : 7 - right]
    np.testing.assert_array_equal(shift(image, 2, rng), expected)


def test_all_shifts_up_to_the_largest_occur() -> None:
    image = torch.zeros(3, 9, 9)
    image[:, 4, 4] = 1  # its position shows the shift
    positions = {
        tuple(shift(image, 1, generator(0, "shift", n))[0].nonzero()[0].tolist())
        for n in range(200)
    }
    assert positions == {(4 + down, 4 + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def test_a_largest_shift_of_zero_changes_nothing() -> None:
    image = torch.rand(3, 4, 4)
    assert torch.equal(shift(image, 0, generator(0, "shift")), image)


def task_of(features: Features) -> ClassifierTask:
    torch.manual_seed(0)
    return ClassifierTask(
        Classifier(features.channels, features.slices, features.dims, 2, 8), features, CPU
    )


def test_starting_later_gives_the_same_batches(images: ImageShards, features: Features) -> None:
    first = list(islice(batches(images, features, 0, RUNTIME, CPU)(0), 4))
    later = list(islice(batches(images, features, 0, RUNTIME, CPU)(32), 2))
    for (a, labels_a), (b, labels_b) in zip(first[2:], later, strict=True):
        assert a.dtype == torch.uint8
        assert a.shape == (16, 3, 8, 8)
        assert torch.equal(a, b)
        assert torch.equal(labels_a, labels_b)


def test_shifts_differ_between_epochs(images: ImageShards, features: Features) -> None:
    def epoch(start: int) -> torch.Tensor:
        return torch.cat(
            [x for x, _ in islice(batches(images, features, 0, RUNTIME, CPU)(start), 3)]
        )

    def differing(a: torch.Tensor, b: torch.Tensor) -> int:
        return len({x.numpy().tobytes() for x in a} - {x.numpy().tobytes() for x in b})

    assert differing(epoch(0), epoch(48)) > 24
    features = features.model_copy(update={"max_shift": 0})
    assert differing(epoch(0), epoch(48)) == 0


def test_training_lowers_the_loss(images: ImageShards, features: Features) -> None:
    task, losses = task_of(features), []
    before = accuracy(task.classifier, images, CPU).value
    for step, batch in enumerate(islice(batches(images, features, 0, RUNTIME, CPU)(0), 20)):
        losses.append(float(task.step(batch, 16 * (step + 1))["train/loss"].detach()))
    assert losses[0] == pytest.approx(np.log(2), abs=0.4)  # chance level of two classes
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert accuracy(task.classifier, images, CPU).value > max(before, 0.9)


def test_learning_rate_follows_the_schedule(images: ImageShards, features: Features) -> None:
    task = task_of(features)
    # the middle of the 288 images after the warm-up of 32
    task.step(next(batches(images, features, 0, RUNTIME, CPU)(0)), nimg=176)
    assert [group["lr"] for group in task.optimizer.param_groups] == [pytest.approx(0.005)]


def test_a_resumed_task_continues_identically(
    images: ImageShards, features: Features, tmp_path
) -> None:
    stream = list(islice(batches(images, features, 0, RUNTIME, CPU)(0), 4))
    uninterrupted, resumed = task_of(features), task_of(features)
    for step in (0, 1):
        uninterrupted.step(stream[step], 16 * (step + 1))
    save_tree(tmp_path / "checkpoint", uninterrupted.state_dict())
    resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
    for task in (uninterrupted, resumed):
        for step in (2, 3):
            task.step(stream[step], 16 * (step + 1))
    for a, b in zip(
        uninterrupted.classifier.parameters(), resumed.classifier.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_accuracy_is_the_fraction_of_correct_classes(images: ImageShards) -> None:
    def dark(x: torch.Tensor) -> torch.Tensor:  # class 0 for every image
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    assert accuracy(dark, images, CPU) == Accuracy(value=0.5, chance=0.5, count=48)


def test_logits_that_are_not_finite_have_no_accuracy(images: ImageShards) -> None:
    """NaN is at the first place of an argmax."""
    with pytest.raises(NotFiniteError, match=r"logits .*features.lr"):
        accuracy(lambda x: torch.full((len(x), 2), torch.nan), images, CPU)


@pytest.mark.parametrize(
    ("accuracy", "at_chance"),
    [
        (Accuracy(1.0, 1.0, 40), True),  # a single class
        (Accuracy(0.5, 0.5, 100), True),
        (Accuracy(0.6, 0.5, 100), True),  # two standard errors: 2√(¼/100)
        (Accuracy(0.61, 0.5, 100), False),
        (Accuracy(0.89, 0.9, 100), True),  # worse than naming the class of 90 of 100 images
        (Accuracy(0.97, 0.9, 100), False),
    ],
)
def test_chance_is_the_share_of_the_most_frequent_class(accuracy, at_chance: bool) -> None:
    assert accuracy.at_chance == at_chance
