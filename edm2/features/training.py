"""Training of the classifier."""

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edm2.data.images import PreparedImages, to_float
from edm2.data.passes import reduce_batches
from edm2.data.stream import stream
from edm2.features.classifier import Classifier
from edm2.params.features import Features
from edm2.params.runtime import Runtime
from edm2.runtime.finite import require_finite
from edm2.runtime.metrics import Metrics
from edm2.runtime.moments import allocate_moments
from edm2.runtime.parallel import data_parallel
from edm2.runtime.randomness import generator
from edm2.runtime.schedule import warmup_cosine

Batch = tuple[torch.Tensor, torch.Tensor]
BATCH = 512  # held-out images at once
WARMUP_DIVISOR = 10  # the warm-up lasts this part of the training: a tenth


class ClassifierTask:
    """Cross-entropy on randomly shifted images; AdamW with warm-up and cosine decay."""

    def __init__(self, classifier: Classifier, params: Features, device: torch.device) -> None:
        self.params, self.device = params, device
        self.classifier = classifier
        self.forward = data_parallel(classifier, device)
        self.optimizer = torch.optim.AdamW(
            classifier.parameters(), lr=params.lr, weight_decay=params.weight_decay
        )
        allocate_moments(self.optimizer)

    def step(self, batch: Batch, nimg: int) -> Metrics:
        images, labels = (tensor.to(self.device) for tensor in batch)
        logits = self.forward(to_float(images))
        loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        duration = self.params.duration_nimg
        factor = warmup_cosine(nimg, duration // WARMUP_DIVISOR, duration)
        for group in self.optimizer.param_groups:
            group["lr"] = self.params.lr * factor
        self.optimizer.step()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"train/loss": loss, "train/accuracy": accuracy}

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.classifier.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


@dataclass(frozen=True)
class ShiftedImages:
    """Reads images with random shifts, and their labels; see `edm2.data.stream.Reader`."""

    dataset: PreparedImages
    max_shift: int
    seed: int

    def __call__(self, numbers: range, indices: list[int]) -> Batch:
        pixels, labels = self.dataset.batch(indices)
        shifted = [
            shift(image, self.max_shift, generator(self.seed, "features/shift", n))
            for image, n in zip(pixels, numbers, strict=True)
        ]
        return torch.stack(shifted), labels


def batches(
    images: PreparedImages, params: Features, seed: int, runtime: Runtime, device: torch.device
) -> Callable[[int], Generator[Batch, None, None]]:
    """batches(nimg): uint8 images [N, 3, R, R], randomly shifted, and int64 labels [N], from then on."""
    read = ShiftedImages(images, params.max_shift, seed)

    def start(nimg: int) -> Generator[Batch, None, None]:
        for _, pixels, labels in stream(read, params.batch, seed, nimg, runtime, device):
            yield pixels, labels

    return start


def shift(image: torch.Tensor, max_shift: int, rng: np.random.Generator) -> torch.Tensor:
    """`image` [3, H, W] shifted by up to `max_shift` pixels in each direction; edge pixels repeat."""
    down, right = rng.integers(-max_shift, max_shift + 1, size=2)

    def shifted(length: int, by: int) -> NDArray[np.int64]:
        return np.clip(np.arange(length) - by, 0, length - 1)

    rows, columns = shifted(image.shape[1], down), shifted(image.shape[2], right)
    return image[:, rows][:, :, columns]


@dataclass(frozen=True)
class Accuracy:
    """How well images are classified.

    Attributes:
        value: the fraction of the images that are classified as their label.
        chance: the fraction of the images in the most frequent class: the accuracy of naming it always.
        count: number of images.
    """

    value: float
    chance: float
    count: int

    @property
    def at_chance(self) -> bool:
        """Whether it is not above chance by more than two standard errors of chance, as 2 of 100
        guessers are; always so with a single class. Then the features are those of an untrained network.
        """
        return self.value <= self.chance + 2 * sqrt(self.chance * (1 - self.chance) / self.count)


def accuracy(
    classifier: Classifier, images: PreparedImages, device: torch.device
) -> Accuracy | None:
    """The accuracy on `images`, which the ranks share, on the main process; None on the others.

    Raises:
        NotFiniteError: a logit is not finite.
    """

    @torch.no_grad()
    def count(_: range, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[int, Counter[int]]:
        logits = classifier(to_float(pixels.to(device)))
        require_finite(
            logits, "logits of the classifier", "Its training diverged: lower features.lr."
        )
        return int((logits.argmax(1).cpu() == labels).sum()), Counter(labels.tolist())

    def add(a: tuple[int, Counter[int]], b: tuple[int, Counter[int]]) -> tuple[int, Counter[int]]:
        return a[0] + b[0], a[1] + b[1]

    total = len(images)
    counts = reduce_batches(images, range(total), BATCH, count, add, "held-out accuracy")
    if counts is None:
        return None
    correct, labels_seen = counts
    return Accuracy(correct / total, max(labels_seen.values()) / total, total)
