"""Images of one network, and their numbers: where denoiser, sampler, codec and detector meet."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.features.classifier import load_classifier
from edm2.metrics.statistics import Statistics, distance, image_statistics, metric_name
from edm2.params import Params
from edm2.params.diffusion import Letter
from edm2.runtime.distributed import ranks
from edm2.runtime.progress import Progress
from edm2.sampling.generate import generate, seed_labels
from edm2.sampling.guidance import ConditionalDenoise, guided, with_guide, without_labels
from edm2.vae.codec import load_codec

BATCH = 256
Network = Mapping[str, Any]  # as the sweep's manifest describes it


@dataclass(frozen=True)
class Generated:
    """Features float32 [N, D] of all seeds; images uint8 [G, 3, R, R] and labels [G] of the first."""

    features: np.ndarray
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
        self.reference = image_statistics(
            (b for b, _ in train.batches(BATCH)), len(train), self.detector, device
        )
        samples = params.evaluation.samples
        self.counts = [samples]
        if self.detector.dims < len(held_out) < samples:
            self.counts.append(len(held_out))  # to hold against the held-out images themselves

    @cached_property
    def denoiser(self) -> Denoiser:
        return self._denoiser(self.params)

    @cached_property
    def guide(self) -> Denoiser:
        return self._denoiser(self.params.guide_of(self.config))

    def _denoiser(self, params: Params) -> Denoiser:
        shape, classes = self.latents.shape, len(self.classes)
        return denoiser_for(self.config, params, shape, classes).to(self.device)

    def generate(
        self, folder: Path, network: Network, strength: float, first_seed: int, progress: Progress
    ) -> Generated:
        """The images of as many seeds as samples under a network of `folder`, guided with
        `strength`; `progress` counts them.
        """
        evaluation = self.params.evaluation
        denoiser = self._guided(folder, network, strength)
        seeds = range(first_seed, first_seed + evaluation.samples)
        shown = seeds[: evaluation.grid_columns * len(self.classes)]
        features: dict[int, np.ndarray] = {}
        images: dict[int, torch.Tensor] = {}
        for part, latents in generate(denoiser, seeds, self.latents.shape, len(self.classes),
                                      self.params.sampling, self.device):  # fmt: skip
            pixels = self.codec.decode(self.latents.normalization.denormalize(latents))
            features |= zip(part, self.detector.features(pixels).cpu().numpy(), strict=True)
            images |= {s: x for s, x in zip(part, pixels.cpu(), strict=True) if s in shown}
            progress.advance(len(part) * ranks().size)  # the other ranks are at their parts
        features, images = _gather(features), _gather(images)
        return Generated(
            np.stack([features[s] for s in seeds]),
            torch.stack([images[s] for s in shown]),
            seed_labels(shown, len(self.classes)),
        )

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
        for count in self.counts:
            statistics = Statistics.empty(self.detector.dims)
            statistics.update(generated.features[:count])
            found.append({
                "guidance": strength,
                "metric": metric_name(self.detector.name, count),
                "value": distance(statistics, self.reference),
                "detector": evaluation.detector,
                "samples": count,
                "first_seed": first_seed,
            })  # fmt: skip
        return found


def _gather(mine: dict) -> dict:  # type: ignore[type-arg]
    """What all ranks have, merged."""
    if not dist.is_initialized():
        return mine
    parts: list[dict] = [{} for _ in range(dist.get_world_size())]  # type: ignore[type-arg]
    dist.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}
