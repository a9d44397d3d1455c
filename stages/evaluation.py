"""Images of one network, and their numbers: where denoiser, sampler, codec and detector meet."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from edm2.data.images import ImageShards
from edm2.metrics.collection import Collection
from edm2.metrics.measures import measured
from edm2.metrics.statistics import metric_name
from edm2.params import Params
from edm2.params.diffusion import Letter
from edm2.runtime.distributed import gathered, ranks
from edm2.runtime.progress import Progress
from stages.detection import detector_of, reference_for
from stages.sampler import Sampler

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
        self.params, self.device = params, device
        self.sampler = Sampler(params, config, device)
        held_out = ImageShards(Path("data/images"), "held_out")
        self.classes = held_out.classes
        self.detector = detector_of(params, device)
        self.reference = reference_for(self.detector)
        evaluation = params.evaluation
        self.counts = [evaluation.samples]
        least = [evaluation.least_samples(m, self.detector.dims) for m in evaluation.measures]
        if max(self.detector.dims + 1, *least) <= len(held_out) < evaluation.samples:
            self.counts.append(len(held_out))  # to hold against the held-out images themselves
        self.kept = 0 if evaluation.measures == ("fd",) else evaluation.samples

    def generate(
        self, folder: Path, network: Network, strength: float, first_seed: int, progress: Progress
    ) -> Generated | None:
        """The images of as many seeds as samples under a network of `folder`, guided with
        `strength`; `progress` counts them. The first rank gets them from all; the others get None.
        """
        evaluation = self.params.evaluation
        guide = None if network["guide"] is None else folder / network["guide"]
        denoise = self.sampler.denoise(folder / network["file"], guide, strength)
        seeds = range(first_seed, first_seed + evaluation.samples)
        labels_of, columns = self.sampler.labels_of, evaluation.grid_columns
        labels = labels_of(seeds)
        shown = {
            seeds[k]
            for label in labels.unique()[: evaluation.grid_classes]
            for k in (labels == label).nonzero().flatten()[:columns].tolist()
        }
        collection = Collection(self.detector.dims, self.counts, self.kept)
        images: dict[int, torch.Tensor] = {}
        who = ranks()
        for part, pixels in self.sampler.images(denoise, seeds[who.rank :: who.size], labels_of):
            numbers = [seed - first_seed for seed in part]
            collection.add(numbers, self.detector.features(pixels).cpu().numpy())
            images |= {s: x for s, x in zip(part, pixels.cpu(), strict=True) if s in shown}
            progress.advance(len(part) * who.size)  # the other ranks are at their parts
        for other, more in gathered((collection, images))[1:]:
            collection.merge(other)
            images |= more
        if not who.first:
            return None
        return Generated(
            collection,
            torch.stack([images[seed] for seed in sorted(shown)]),
            labels_of(sorted(shown)),
        )

    def rows(self, generated: Generated, strength: float, first_seed: int) -> list[dict[str, Any]]:
        """One table row per metric, by its full name."""
        evaluation, found = self.params.evaluation, []
        for count, measure in product(self.counts, evaluation.measures):
            number = measured(
                measure,
                generated.features,
                self.reference,
                count,
                evaluation,
                self.detector,
                self.device,
            )
            found.append(
                {
                    "guidance": strength,
                    "metric": metric_name(self.detector.name, count, measure),
                    **asdict(number),
                    "detector": evaluation.detector,
                    "samples": count,
                    "first_seed": first_seed,
                }
            )
        return found
