"""One training of a project, opened to sample from any of its averages and to measure them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from edm2.cli.project import ProjectContext
from edm2.diffusion.inference import prepare_for_inference
from edm2.diffusion.setup import denoiser_for, set_network
from edm2.ema import SnapshotStore
from edm2.features.backbone import Detector
from edm2.metrics.jackknife import extrapolate
from edm2.metrics.reference import Reference
from edm2.metrics.statistics import Statistics, finite_features
from edm2.params import Params, UserError, load
from edm2.params.replicates import Replicate
from edm2.params.seams import GROUPS
from edm2.pipeline.detection import detector_for, reference_for
from edm2.pipeline.paths import store_folder
from edm2.pipeline.project_networks import project_sampler
from edm2.reporting.selection import ema_curve, read_networks
from edm2.runtime.device import pick_device
from edm2.runtime.precision import with_precision
from edm2.sampling.generate import SampleBatch, seed_noise

Tensors = Mapping[str, torch.Tensor]  # of a network, by name


@dataclass(frozen=True)
class Distance:
    """The Fréchet distance of generated images to the training images.

    Attributes:
        value: of all images.
        low, high: 95 % confidence interval, of the choice of seeds alone; not of the training.
        images: number of generated images. Distances of different numbers cannot be compared.
    """

    value: float
    low: float
    high: float
    images: int


def open_training(name: str | None = None, project: str | None = None) -> "Training":
    """Open the results of a training, and make the root of its project the current folder.

    Args:
        name: like G-0; None: the first one of params.yaml.
        project: folder of the project; None: the current one or one above it.

    Raises:
        UserError: no project, no such training, or results are missing: run `dvc repro`.
    """
    root = ProjectContext(project).enter()
    params = load(root / "params.yaml")
    named = f"open_training({name!r})"
    first = params.replicates[0]
    return Training(first if name is None else params.replicate(name, named, "params.yaml"), params)


class Training:
    """A training of the project in the current folder.

    Samples and metrics are those that the pipeline would get, with the project's sampler, codec and
    detector, without guidance. Where `runtime.precision` is auto, networks compute in fp32.

    Attributes:
        replicate: its config and seed.
        params: of its config.
        store: its snapshots.
        classes: names of the dataset's classes.
    """

    def __init__(self, replicate: Replicate, params: Params) -> None:
        """
        Raises:
            UserError: its results are missing or damaged.
        """
        params = params.of(replicate.config)
        if params.runtime.precision == "auto":
            params = with_precision(params, "fp32")
        self.replicate, self.params = replicate, params
        self.store = SnapshotStore(store_folder(replicate))
        self.device = pick_device(params.runtime)
        self._sampler = project_sampler(params, replicate.config, self.device)
        self._sampler.network = store_folder(replicate)  # for errors
        self.classes = self._sampler.classes

    def __repr__(self) -> str:
        count = len(self.store.snapshots)
        return f"training {self.replicate}: {count} snapshots of {self.store.end} images"

    def denoiser(self, tensors: Tensors) -> nn.Module:
        """The denoiser with these weights: (x float32 [N, C, R, R], sigma float32 [N], labels int64 [N]) →
        denoised x.

        Raises:
            UserError: they are of another network.
        """
        shape, classes = self._sampler.shape, len(self.classes)
        denoiser = denoiser_for(self.replicate.config, self.params, shape, classes)
        return prepare_for_inference(set_network(denoiser.to(self.device), tensors))

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise float32 [N, C, R, R], with which the sampling of each seed starts."""
        return seed_noise(seeds, self._sampler.shape, self.device)

    def labels(self, seeds: Sequence[int]) -> torch.Tensor:
        """The class of each seed, int64 [N]."""
        return self._sampler.labels(seeds).to(self.device)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents float32 [N, C, R, R] → images uint8 [N, 3, H, W], on the CPU."""
        normalization = self._sampler.normalization
        return self._sampler.codec.decode(normalization.denormalize(latents)).cpu()

    def images(self, tensors: Tensors, seeds: Sequence[int]) -> torch.Tensor:
        """Images uint8 [N, 3, H, W] of the network with these weights, on the CPU, by the project's sampler.

        Raises:
            UserError: the weights are of another network.
            NotFiniteError: a sample is not finite.
        """
        return torch.cat([batch.samples.cpu() for batch in self._batches(tensors, seeds)])

    def distance(self, tensors: Tensors, seeds: Sequence[int]) -> Distance:
        """The Fréchet distance of the images of these seeds, and its interval by a delete-group jackknife.

        Raises:
            UserError: as `images`; or there are not enough images for the detector's features.
        """
        batches = self._batches(tensors, seeds)
        features = np.concatenate([finite_features(self._detector, b.samples) for b in batches])
        groups = [Statistics.of(part) for part in np.array_split(features, GROUPS)]
        limit = extrapolate(groups, self._reference, self.params.evaluation.allow_singular)
        half = limit.interval[1] - limit.value
        return Distance(limit.finite, limit.finite - half, limit.finite + half, len(seeds))

    def ema_curve(self) -> pd.DataFrame:
        """The Fréchet distances that the pipeline measured: a row per EMA length, `ema_length` and `value`.

        Raises:
            UserError: the table is missing or damaged.
        """
        path = Path(f"reports/fid/{self.replicate}.csv")
        if not path.is_file():
            raise UserError(f"{path}: missing. Run `dvc repro`.")
        columns = ["ema_length", "value", "metric", "samples", "error"]
        return ema_curve(read_networks([path]))[columns].reset_index(drop=True)

    def _batches(self, tensors: Tensors, seeds: Sequence[int]) -> Iterator[SampleBatch]:
        return self._sampler.images(self.denoiser(tensors), seeds, self._sampler.labels(seeds))

    @cached_property
    def _detector(self) -> Detector:
        return detector_for(self.params, self.device)

    @cached_property
    def _reference(self) -> Reference:
        return reference_for(self._detector)
