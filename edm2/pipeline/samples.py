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
from edm2.data.shards import write_shard
from edm2.diffusion.precision import evaluation
from edm2.params import UserError
from edm2.pipeline.sampler import Networks, Sampler
from edm2.reporting.grids import write_class_grid
from edm2.runtime.device import pick_device
from edm2.runtime.distributed import barrier, is_main_process, process_group, ranks
from edm2.runtime.files import replacing, write_json
from edm2.runtime.precision import TimedRun, choose_precision
from edm2.runtime.progress import track
from edm2.sampling.guidance import ConditionalDenoise

SHARD = 1000  # images of a shard, and of a folder
GRID_SIZE = 16  # rows and columns of the grid, at most


@dataclass(frozen=True)
class SampleRequest:
    """A request for samples of one network.

    Attributes:
        network: a file, a folder, or a repository of the Hugging Face Hub, owner/name: what the source
            of the networks reads.
        classes: class numbers that the seeds take in turn; None: see sampling.labels.
        guide: of a guide network; None: the network itself, without labels.
        strength: guidance strength; 1: no guidance.
        out: folder of the samples.
        format: one PNG file per image, or WebDataset shards.
        subdirs: PNG files are in folders of 1000 seeds, without a grid.
    """

    network: Path
    seeds: Sequence[int]
    classes: Sequence[int] | None
    guide: Path | None
    strength: float
    out: Path
    format: Literal["png", "shards"]
    subdirs: bool


def write_samples(request: SampleRequest, networks: Networks) -> None:
    """Make the samples that do not exist yet; each rank makes some of them.

    Args:
        networks: the source of the request's network and guide.

    Raises:
        UserError: a file is not such a network, the folder holds other samples, or an option would have
            no effect.
    """
    device = pick_device(networks.runtime)
    with process_group(device, networks.runtime.timeout_minutes):
        precision = _precision(request, networks, device)
        folder = SampleFolder(request, Sampler(networks, device, precision))
        denoise = folder.sampler.denoise(request.network, request.guide, request.strength)
        if is_main_process():
            folder.claim()
        barrier()
        (folder.write_shards if request.format == "shards" else folder.write_files)(denoise)
        barrier()
        if folder.has_grid and is_main_process():
            folder.draw_grid()


def _precision(request: SampleRequest, networks: Networks, device: torch.device) -> str:
    """The precision of activations. If it must be measured, what cannot be sampled is refused before the
    folder gets a choice.
    """
    precision = networks.precision(device)
    if precision != "auto":
        return precision
    folder = SampleFolder(request, Sampler(networks, device, "fp32"))
    folder.sampler.denoise(request.network, request.guide, request.strength)
    if is_main_process():
        folder.existing_description()
    denoiser = networks.network(request.network)

    def make_run() -> TimedRun:
        return evaluation(denoiser, networks.shape, device)

    return choose_precision(precision, request.out, device, make_run, networks.sampling.batch)


class SampleFolder:
    """The folder of one request. samples.json describes its images, so that no folder mixes requests."""

    def __init__(self, request: SampleRequest, sampler: Sampler) -> None:
        """
        Raises:
            UserError: classes that do not exist, or options without effect.
        """
        self.request, self.sampler = request, sampler
        _check(request, sampler.networks)
        self.labels = self._labels()  # int64 [seeds]
        self.has_grid = request.format == "png" and not request.subdirs

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
            files = (*out.iterdir(), *out.glob("[0-9]*/*.png")) if out.exists() else ()
            images = any(file.suffix in (".png", ".tar") for file in files)
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
            self._file(seed).parent.mkdir(exist_ok=True)
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
            self.sampler.classes or ["no class"],
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
        seeds, classes = self.request.seeds, self.request.classes
        if classes is None:
            return self.sampler.labels(seeds)
        return torch.tensor([classes[k % len(classes)] for k in range(len(seeds))])

    def _description(self) -> dict[str, Any]:
        """Everything that determines the images, as JSON."""
        request, networks = self.request, self.sampler.networks
        # include the seeds if each file depends on all of them
        grouped = request.classes or request.format == "shards"
        interval = None if networks.interval is None else list(networks.interval)
        description = {
            **networks.identity(request.network, request.guide),
            "strength": request.strength,
            "labels": None if request.classes is None else list(request.classes),
            "format": request.format,
            "seeds": str(request.seeds) if grouped else None,
            "interval": None if request.strength == 1 else interval,
            "sampling": networks.sampling.model_dump(mode="json", exclude={"batch"}),
            "precision": self.sampler.precision,
        }
        return {**description, "subdirs": True} if request.subdirs else description

    def _file(self, seed: int) -> Path:
        if self.request.subdirs:
            return self.request.out / f"{seed // SHARD * SHARD:06d}" / f"{seed:06d}.png"
        return self.request.out / f"{seed:09d}.png"


def _check(request: SampleRequest, networks: Networks) -> None:
    if request.classes and not networks.conditional:
        raise UserError(
            "--classes: expected a conditional network, but this one has no classes "
            "(diffusion.conditional: false). Leave --classes out."
        )
    count = len(networks.classes)
    if request.classes and max(request.classes) >= count:
        raise UserError(f"--classes {max(request.classes)}: expected classes below {count}.")
    if request.guide and request.strength == 1:
        raise UserError(
            f"--guide {request.guide}: has no effect at strength 1. Set --strength, or leave it out."
        )
    if request.strength != 1 and not request.guide and not networks.guides_itself:
        raise UserError(
            f"--strength {request.strength:g}: expected --guide, or a network trained with "
            "diffusion.label_dropout above 0: other networks need labels."
        )
    if request.subdirs and request.format == "shards":
        raise UserError(
            "--subdirs: has no effect with --format shards, which have 1000 images each. Leave it out."
        )
