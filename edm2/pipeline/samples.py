"""A folder of samples of one network: what `edm2 sample` writes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from edm2.data.images import image_sample
from edm2.data.latents import read_latent_space
from edm2.data.shards import write_shard
from edm2.diffusion.precision import denoiser_precision
from edm2.params import Params, UserError
from edm2.params.configs import ConfigName
from edm2.pipeline.network_reader import network_identity
from edm2.pipeline.paths import LATENTS, VAE
from edm2.pipeline.sampler import Sampler
from edm2.reporting.grids import write_class_grid
from edm2.runtime.device import pick_device
from edm2.runtime.distributed import barrier, is_main_process, process_group, ranks
from edm2.runtime.files import replacing, sha256, write_json
from edm2.runtime.manifest import MANIFEST
from edm2.runtime.precision import with_precision
from edm2.runtime.progress import track
from edm2.sampling.guidance import ConditionalDenoise

SHARD = 1000  # images
GRID_SIZE = 16  # rows and columns of the grid, at most


@dataclass(frozen=True)
class SampleRequest:
    """A request for samples of one network.

    Attributes:
        network: a safetensors file of a network of `config`, or a network of a sweep without files.
        labels: class numbers that the seeds take in turn; None: see sampling.labels.
        guide: file of a guide network; None: the network itself, without labels.
        strength: guidance strength; 1: no guidance.
        out: folder of the samples.
        format: one PNG file per image, or WebDataset shards.
    """

    network: Path
    config: ConfigName
    seeds: Sequence[int]
    labels: Sequence[int] | None
    guide: Path | None
    strength: float
    out: Path
    format: Literal["png", "shards"]


def write_samples(request: SampleRequest, params: Params) -> None:
    """Make the samples that do not exist yet; each rank makes some of them.

    Args:
        params: those of the request's config.

    Raises:
        UserError: a file is not a network of this config, the folder holds other samples, or an
            option would have no effect.
    """
    device = pick_device(params.runtime)
    with process_group(device, params.runtime.timeout_minutes):
        latents = read_latent_space(LATENTS)
        _refuse_before_measuring(request, params, device)
        params = denoiser_precision(
            params, request.config, latents, request.out, device, trains=False
        )
        folder = SampleFolder(request, params, Sampler(params, request.config, device))
        denoise = folder.sampler.denoise(request.network, request.guide, request.strength)
        if is_main_process():
            folder.claim()
        barrier()
        (folder.write_shards if request.format == "shards" else folder.write_files)(denoise)
        barrier()
        if request.format == "png" and is_main_process():
            folder.draw_grid()


def _refuse_before_measuring(request: SampleRequest, params: Params, device: torch.device) -> None:
    """With `runtime.precision: auto`, refuse what cannot be sampled before the folder gets a choice."""
    if params.runtime.precision == "auto":
        params = with_precision(params, "fp32")
        folder = SampleFolder(request, params, Sampler(params, request.config, device))
        folder.sampler.denoise(request.network, request.guide, request.strength)
        if is_main_process():
            folder.existing_description()


class SampleFolder:
    """The folder of one request. samples.json describes its images, so that no folder mixes requests."""

    def __init__(self, request: SampleRequest, params: Params, sampler: Sampler) -> None:
        """
        Raises:
            UserError: classes that do not exist, or options without effect.
        """
        self.request, self.params, self.sampler = request, params, sampler
        _check(request, params, len(sampler.classes))
        self.labels = self._labels()  # int64 [seeds]

    def claim(self) -> None:
        """Create the folder and its samples.json.

        Raises:
            UserError: the folder holds other samples, or cannot be created.
        """
        out, description, existing = (
            self.request.out,
            self._description(),
            self.existing_description(),
        )
        if existing is None:
            try:
                out.mkdir(parents=True, exist_ok=True)
                write_json(out / "samples.json", description)
            except OSError as error:
                raise self._error(f"not a folder of samples ({error})") from None
            return
        keys = {**existing, **description}
        differing = [key for key in keys if description.get(key) != existing.get(key)]
        if differing:
            raise self._error(
                f"its images were made with other settings ({', '.join(differing)} differ)"
            )

    def existing_description(self) -> dict[str, Any] | None:
        """The folder's samples.json; None: it has neither that nor images.

        Raises:
            UserError: it is no folder of samples.
        """
        out = self.request.out
        path = out / "samples.json"
        try:
            if path.exists():
                return dict(json.loads(path.read_text(encoding="utf-8")))
            images = out.exists() and any(file.suffix in (".png", ".tar") for file in out.iterdir())
        except (OSError, ValueError, TypeError) as error:
            raise self._error(f"not a folder of samples ({error})") from None
        if images:
            raise self._error("it holds images, but no samples.json")
        return None

    def _error(self, reason: str) -> UserError:
        return UserError(f"--out {self.request.out}: {reason}. Name another folder, or remove it.")

    def write_files(self, denoise: ConditionalDenoise) -> None:
        """One file {seed}.png per image."""
        rank, size, seeds = ranks().rank, ranks().world_size, self.request.seeds
        share = range(len(seeds))[rank::size]  # does not depend on files that other ranks write
        missing = [k for k in share if not self._file(seeds[k]).exists()]
        for seed, image, _ in track(self._images(denoise, missing), "sample", len(missing), "img"):
            with replacing(self._file(seed)) as temporary:
                Image.fromarray(image).save(temporary, format="png")

    def write_shards(self, denoise: ConditionalDenoise) -> None:
        """samples-{first seed}.tar of up to SHARD images each; the ranks take shards in turn."""
        rank, size, seeds = ranks().rank, ranks().world_size, self.request.seeds
        for start in range(0, len(seeds), SHARD)[rank::size]:
            numbers = range(start, min(start + SHARD, len(seeds)))
            path = self.request.out / f"samples-{seeds[start]:09d}.tar"
            if not path.exists():
                images = track(self._images(denoise, numbers), path.stem, len(numbers), "img")
                write_shard(path, (image_sample(f"{s:09d}", image, k) for s, image, k in images))

    def draw_grid(self) -> None:
        """grid.png: the first classes, the first seeds of each."""
        classes = self.labels.unique()[:GRID_SIZE]
        in_grid = torch.cat([(self.labels == k).nonzero()[:GRID_SIZE, 0] for k in classes])
        files = [self._file(self.request.seeds[k]) for k in in_grid]
        images = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])
        write_class_grid(
            self.request.out / "grid.png",
            images.permute(0, 3, 1, 2),
            self.labels[in_grid],
            self.sampler.classes,
        )

    def _images(
        self, denoise: ConditionalDenoise, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Any, int]]:
        """Seed, image uint8 [R, R, 3] and label of the seeds at these positions."""
        seeds = [self.request.seeds[k] for k in numbers]
        for batch in self.sampler.images(denoise, seeds, self.labels[list(numbers)]):
            images = batch.samples.permute(0, 2, 3, 1).cpu().numpy()
            yield from zip(batch.seeds, images, batch.labels.tolist(), strict=True)

    def _labels(self) -> torch.Tensor:
        seeds, labels = self.request.seeds, self.request.labels
        if labels is None:
            return self.sampler.labels(seeds)
        return torch.tensor([labels[k % len(labels)] for k in range(len(seeds))])

    def _description(self) -> dict[str, Any]:
        """Everything that determines the images, as JSON."""
        request, params = self.request, self.params
        # include the seeds if each file depends on all of them
        grouped = request.labels or request.format == "shards"
        guidance = params.guidance.model_dump(mode="json")
        networks = (request.network, request.guide)
        return {
            "networks": [None if path is None else network_identity(path) for path in networks],
            "codec": sha256(VAE / MANIFEST),
            "latents": sha256(LATENTS / MANIFEST),
            "strength": request.strength,
            "labels": None if request.labels is None else list(request.labels),
            "format": request.format,
            "seeds": str(request.seeds) if grouped else None,
            "config": request.config,
            "interval": None if request.strength == 1 else guidance["interval"],
            "changes": guidance["changes"] if request.guide else None,
            "sampling": params.sampling.model_dump(mode="json", exclude={"batch"}),
            "precision": params.runtime.precision,
        }

    def _file(self, seed: int) -> Path:
        return self.request.out / f"{seed:09d}.png"


def _check(request: SampleRequest, params: Params, classes: int) -> None:
    if request.labels and not params.diffusion.conditional:
        raise UserError(
            "--labels: expected a conditional network, but diffusion.conditional is false. Leave "
            "--labels out."
        )
    if request.labels and max(request.labels) >= classes:
        raise UserError(f"--labels {max(request.labels)}: expected classes below {classes}.")
    if request.guide and request.strength == 1:
        raise UserError(
            f"--guide {request.guide}: has no effect at strength 1. Set --strength, or leave it out."
        )
    if request.strength != 1 and not request.guide and not params.diffusion.label_dropout:
        raise UserError(
            f"--strength {request.strength:g}: expected --guide, or a network trained with "
            "diffusion.label_dropout above 0: other networks need labels."
        )
