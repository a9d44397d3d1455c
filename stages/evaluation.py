"""Images of one network, and their numbers: where denoiser, sampler, codec and detector meet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.features.classifier import load_classifier
from edm2.metrics.collection import Collection
from edm2.metrics.measures import measured
from edm2.metrics.statistics import image_features, metric_name
from edm2.params import Params
from edm2.params.diffusion import Letter
from edm2.runtime.distributed import ranks
from edm2.runtime.progress import Progress
from edm2.runtime.randomness import generator
from edm2.sampling.generate import generate, seed_labels
from edm2.sampling.guidance import ConditionalDenoise, guided, with_guide, without_labels
from edm2.vae.codec import load_codec

BATCH = 256
T = TypeVar("T")
Network = Mapping[str, Any]  # as the sweep's manifest describes it


@dataclass(frozen=True)
class Generated:
    """Features of all seeds, collected; images uint8 [G, 3, R, R] and labels [G] of the first."""

    features: Collection
    images: torch.Tensor
    labels: torch.Tensor


class Evaluator:
    """Generates with one network after another and compares with the training images."""

    def __init__(self, params: Params, config: Letter, device: torch.device) -> None:
        self.params, self.config, self.device = params, config, device
        train, held_out = (ImageShards(Path("data/images"), s) for s in ("train", "held_out"))
        self.classes = train.classes
        self.latents = LatentShards(Path("data/latents"), "train")
        self.codec = load_codec(Path("models/vae"), device)
        self.detector = load_classifier(Path("models/features"), device)
        evaluation = params.evaluation
        self.counts = [evaluation.samples]
        least = [evaluation.least_samples(m, self.detector.dims) for m in evaluation.measures]
        if max(self.detector.dims + 1, *least) <= len(held_out) < evaluation.samples:
            self.counts.append(len(held_out))  # to hold against the held-out images themselves
        self.kept = 0 if evaluation.measures == ("fd",) else evaluation.samples
        self.reference = self._collected(train)

    def _collected(self, train: ImageShards) -> Collection:
        """The training images, numbered in an order that is random and always the same.

        Each rank sees its share; the first one has them all.
        """
        who, total = ranks(), len(train)
        numbers = generator(0, "evaluation/reference").permutation(total).tolist()
        parts = [numbers[k : k + BATCH] for k in range(0, total, BATCH)]
        mine = range(len(parts))[who.rank :: who.size]
        images = (train.batch(range(k * BATCH, k * BATCH + len(parts[k])))[0] for k in mine)
        collection = Collection(self.detector.dims, [total], self.kept)
        seen = image_features(images, sum(len(parts[k]) for k in mine), self.detector, self.device)
        for k, features in zip(mine, seen, strict=True):
            collection.add(parts[k], features)
        for other in _gathered(collection)[1:]:
            collection.merge(other)
        return collection

    @cached_property
    def denoiser(self) -> Denoiser:
        return self._denoiser(self.params)

    @cached_property
    def guide(self) -> Denoiser:
        return self._denoiser(self.params.guide_of(self.config))

    def _denoiser(self, params: Params) -> Denoiser:
        shape, classes = self.latents.shape, len(self.classes)
        return denoiser_for(self.config, params, shape, classes).to(self.device)

    def labels_of(self, seeds: Sequence[int]) -> torch.Tensor:
        """The class of each seed."""
        return seed_labels(seeds, len(self.classes), self.params.sampling.labels)

    def generate(
        self, folder: Path, network: Network, strength: float, first_seed: int, progress: Progress
    ) -> Generated | None:
        """The images of as many seeds as samples under a network of `folder`, guided with
        `strength`; `progress` counts them. The first rank gets them from all; the others get None.
        """
        evaluation = self.params.evaluation
        denoiser = self._guided(folder, network, strength)
        seeds = range(first_seed, first_seed + evaluation.samples)
        labels, columns = self.labels_of(seeds), evaluation.grid_columns
        shown = {seeds[k] for label in range(evaluation.grid_classes)
                 for k in (labels == label).nonzero().flatten()[:columns].tolist()}  # fmt: skip
        collection = Collection(self.detector.dims, self.counts, self.kept)
        images: dict[int, torch.Tensor] = {}
        for part, latents in generate(denoiser, seeds, self.latents.shape, self.labels_of,
                                      self.params.sampling, self.device):  # fmt: skip
            pixels = self.codec.decode(self.latents.normalization.denormalize(latents))
            numbers = [seed - first_seed for seed in part]
            collection.add(numbers, self.detector.features(pixels).cpu().numpy())
            images |= {s: x for s, x in zip(part, pixels.cpu(), strict=True) if s in shown}
            progress.advance(len(part) * ranks().size)  # the other ranks are at their parts
        for other, more in _gathered((collection, images))[1:]:
            collection.merge(other)
            images |= more
        if not ranks().first:
            return None
        return Generated(collection, torch.stack([images[seed] for seed in sorted(shown)]),
                         self.labels_of(sorted(shown)))  # fmt: skip

    def _guided(self, folder: Path, network: Network, strength: float) -> ConditionalDenoise:
        guidance = self.params.guidance
        main = set_network(self.denoiser, load_file(folder / network["file"]))
        if strength == 1:
            return main
        if guidance.guide == "unlabelled":
            return guided(main, without_labels(main), strength, guidance.interval)
        guide = set_network(self.guide, load_file(folder / network["guide"]))
        return guided(main, with_guide(main, guide), strength, guidance.interval)

    def rows(self, generated: Generated, strength: float, first_seed: int) -> list[dict[str, Any]]:
        """One table row per metric, by its full name."""
        evaluation, found = self.params.evaluation, []
        for count, measure in product(self.counts, evaluation.measures):
            number = measured(measure, generated.features, self.reference, count, evaluation,
                              self.device)  # fmt: skip
            found.append({
                "guidance": strength,
                "metric": metric_name(self.detector.name, count, measure),
                **asdict(number),
                "detector": evaluation.detector,
                "samples": count,
                "first_seed": first_seed,
            })  # fmt: skip
        return found


def _gathered(mine: T) -> list[T]:
    """What all ranks have, in their order, on the first; on the others what they have themselves."""
    parts: list[T] = [mine] * (ranks().size if ranks().first else 1)
    if dist.is_initialized():
        dist.gather_object(mine, parts if ranks().first else None)
    return parts
