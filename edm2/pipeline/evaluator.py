"""Images of one network, and their metrics, from the sampler and the detector."""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch

from edm2.metrics.collection import Collection
from edm2.metrics.reference import Reference
from edm2.metrics.registry import MetricInputs, compute_metric
from edm2.metrics.statistics import finite_features, metric_name
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.params.seams import METRICS
from edm2.pipeline.detection import detector_for, is_detector_at_chance, reference_for
from edm2.pipeline.network_reader import BYTES_AHEAD
from edm2.pipeline.networks import SweptNetwork
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.project_networks import ProjectNetworks
from edm2.pipeline.sampler import Sampler
from edm2.runtime.distributed import gather_object, is_main_process, ranks
from edm2.runtime.manifest import load_manifest
from edm2.runtime.progress import Progress


@dataclass(frozen=True)
class GeneratedImages:
    """Features of the images of all seeds; images uint8 [G, 3, R, R] and labels [G] for a grid."""

    features: Collection
    images: torch.Tensor
    labels: torch.Tensor


class Evaluator:
    """Generates images with one network after another and compares them with the training images."""

    def __init__(self, params: Params, config: ConfigName, device: torch.device) -> None:
        self.params, self.device = params, device
        self.networks = ProjectNetworks(params, config, BYTES_AHEAD)
        self.sampler = Sampler(self.networks, device, params.runtime.precision)
        images = load_manifest(IMAGES)
        self.classes, held_out = images["classes"], images["images"]["held_out"]
        self.detector = detector_for(params, device)
        if is_main_process():
            _ = self.reference  # its errors are raised before images are made
        self.at_chance = is_detector_at_chance(params)
        evaluation = params.evaluation
        self.counts = [evaluation.samples]
        minima = [evaluation.min_samples(m, self.detector.dims) for m in evaluation.metrics]
        if max(self.detector.dims + 1, *minima) <= held_out < evaluation.samples:
            self.counts.append(held_out)  # to compare with the held-out images themselves
        uses_features = any(METRICS[metric].uses_features for metric in evaluation.metrics)
        self.kept_features = evaluation.samples if uses_features else 0

    @cached_property
    def reference(self) -> Reference:
        """Statistics of the training images; read whole, so only where metrics are computed."""
        return reference_for(self.detector)

    def generate(
        self,
        folder: Path,
        network: SweptNetwork,
        strength: float,
        first_seed: int,
        progress: Progress,
    ) -> GeneratedImages | None:
        """Images of as many seeds as samples, from a network of `folder` guided with `strength`.

        The main process gets the images of all ranks, the other processes get None. `progress` counts images.
        """
        evaluation = self.params.evaluation
        rank, size = ranks().rank, ranks().world_size
        guide = None if network.guide is None else folder / network.guide
        denoise = self.sampler.denoise(folder / network.file, guide, strength)
        seeds = range(first_seed, first_seed + evaluation.samples)
        labels = self.sampler.labels(seeds)
        in_grid = self._grid_numbers(labels)
        collection = Collection(self.detector.dims, self.counts, self.kept_features)
        images: dict[int, torch.Tensor] = {}
        share = slice(rank, None, size)  # of this rank
        for batch in self.sampler.images(denoise, seeds[share], labels[share]):
            numbers = [seed - first_seed for seed in batch.seeds]
            collection.add(numbers, finite_features(self.detector, batch.samples))
            pixels = batch.samples.cpu()
            # copies: a view would be sent to the main process with the whole batch behind it
            images |= {n: pixels[k].clone() for k, n in enumerate(numbers) if n in in_grid}
            progress.advance(len(numbers) * size)  # the other ranks advance as well
        for other_collection, other_images in gather_object((collection, images))[1:]:
            collection.merge(other_collection)
            images |= other_images
        if not is_main_process():
            return None
        order = sorted(in_grid)
        return GeneratedImages(collection, torch.stack([images[n] for n in order]), labels[order])

    def _grid_numbers(self, labels: torch.Tensor) -> set[int]:
        """Numbers of the images in the grid: the first ones of the first classes."""
        evaluation = self.params.evaluation
        return {
            number
            for label in labels.unique()[: evaluation.grid_classes]
            for number in (labels == label).nonzero().flatten()[: evaluation.grid_columns].tolist()
        }

    def rows(
        self, generated: GeneratedImages, strength: float, first_seed: int
    ) -> list[dict[str, Any]]:
        """One table row per metric, by its full name."""
        evaluation, rows = self.params.evaluation, []
        for count, metric in product(self.counts, evaluation.metrics):
            inputs = MetricInputs(
                generated.features, self.reference, count, evaluation, self.detector, self.device
            )
            value = compute_metric(metric, inputs)
            rows.append(
                {
                    "guidance": strength,
                    "metric": metric_name(self.detector.name, count, metric),
                    **asdict(value),
                    "detector": evaluation.detector,
                    "at_chance": self.at_chance,
                    "samples": count,
                    "first_seed": first_seed,
                }
            )
        return rows
