"""Training of the classifier."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edm2.data.images import ImageShards, to_float
from edm2.data.stream import stream
from edm2.features.classifier import Classifier
from edm2.params.features import Features
from edm2.runtime.distributed import data_parallel
from edm2.runtime.loop import Metrics
from edm2.runtime.randomness import generator
from edm2.runtime.schedule import warmup_cosine

Batch = tuple[torch.Tensor, torch.Tensor]
WARMUP = 10  # one part in so many of the training


class ClassifierTask:
    """Cross-entropy on shifted images; AdamW with warm-up and cosine decay."""

    def __init__(self, classifier: Classifier, params: Features, device: torch.device) -> None:
        self.params, self.device = params, device
        self.classifier = classifier
        self.forward = data_parallel(classifier, device)
        self.optimizer = torch.optim.AdamW(
            classifier.parameters(), lr=params.lr, weight_decay=params.weight_decay
        )

    def step(self, batch: Batch, nimg: int) -> Metrics:
        images, labels = (tensor.to(self.device) for tensor in batch)
        scores = self.forward(to_float(images))
        loss = nn.functional.cross_entropy(scores, labels)
        self.optimizer.zero_grad()
        loss.backward()
        duration = self.params.duration_nimg
        factor = warmup_cosine(nimg, duration // WARMUP, duration)
        for group in self.optimizer.param_groups:
            group["lr"] = self.params.lr * factor
        self.optimizer.step()
        accuracy = (scores.argmax(1) == labels).float().mean()
        return {"train/loss": loss, "train/accuracy": accuracy}

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.classifier.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def batches(images: ImageShards, params: Features, seed: int) -> Callable[[int], Iterator[Batch]]:
    """Training batches of shifted images from a given time on."""

    def read(numbers: range, indices: list[int]) -> Batch:
        pixels, labels = images.batch(indices)
        shifted = [
            shift(image, params.max_shift, generator(seed, "features/shift", n))
            for image, n in zip(pixels, numbers, strict=True)
        ]
        return torch.stack(shifted), labels

    return lambda nimg: stream(read, len(images), params.batch, seed, nimg)


def shift(image: torch.Tensor, largest: int, rng: np.random.Generator) -> torch.Tensor:
    """`image` [3, H, W] moved by up to `largest` pixels each way; borders repeat."""
    down, right = rng.integers(-largest, largest + 1, size=2)

    def moved(length: int, by: int) -> NDArray[np.int64]:
        return np.clip(np.arange(length) - by, 0, length - 1)

    rows, columns = moved(image.shape[1], down), moved(image.shape[2], right)
    return image[:, rows][:, :, columns]


@torch.no_grad()
def accuracy(classifier: Classifier, images: ImageShards, device: torch.device) -> float:
    """Fraction of `images` that is read as its label."""
    right = 0
    for pixels, labels in images.batches(512):
        scores = classifier(to_float(pixels.to(device)))
        right += int((scores.argmax(1).cpu() == labels).sum())
    return right / len(images)
