"""A folder of samples: what it holds, written in samples.json, and the images of seeds in it."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from edm2.data.images import image_sample
from edm2.data.shards import write_shard
from edm2.params import Params, UserError
from edm2.reporting.grids import write_class_grid
from edm2.runtime.distributed import ranks
from edm2.runtime.files import replacing, sha256, write_json
from edm2.runtime.manifest import NAME
from edm2.runtime.progress import track
from edm2.sampling.guidance import ConditionalDenoise
from stages.sampler import Sampler

SHARD = 1000  # images
SHOWN = 16  # rows and columns of the grid, at most


def claim(given: argparse.Namespace, params: Params) -> None:
    """samples.json: what the images of the folder are, so that a folder never mixes two.

    Raises:
        UserError: the folder holds images of something else, or cannot be one.
    """
    path, facts = given.out / "samples.json", described(given, params)
    refuse = f"--out {given.out}: {{}}. Name another folder, or remove it."
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        elif any(file.suffix in (".png", ".tar") for file in given.out.iterdir()):
            raise UserError(
                refuse.format("it holds images, and no samples.json that tells of what")
            )
        else:
            write_json(path, facts)
            return
    except (OSError, ValueError, TypeError) as error:
        raise UserError(refuse.format(f"no folder of samples ({error})")) from None
    differing = [key for key in {**before, **facts} if facts.get(key) != before.get(key)]
    if differing:
        told = ", ".join(differing)
        raise UserError(refuse.format(f"it holds images made otherwise ({told} differ)"))


def described(given: argparse.Namespace, params: Params) -> dict[str, Any]:
    """All that the images follow from, as JSON has it."""
    together = given.labels or given.format == "shards"  # which seeds there are shapes each file
    guidance = params.guidance.model_dump(mode="json")
    return {
        "networks": [
            None if path is None else sha256(path) for path in (given.network, given.guide)
        ],
        "codec": sha256(Path("models/vae") / NAME),
        "latents": sha256(Path("data/latents") / NAME),
        "strength": given.strength,
        "labels": given.labels,
        "format": given.format,
        "seeds": str(given.seeds) if together else None,
        "config": given.config,
        "interval": None if given.strength == 1 else guidance["interval"],
        "changes": guidance["changes"] if given.guide else None,
        "sampling": params.sampling.model_dump(mode="json", exclude={"batch"}),
        "precision": params.runtime.precision,
    }


def labels_of(given: argparse.Namespace, sampler: Sampler, seeds: Sequence[int]) -> torch.Tensor:
    """The class of each seed, int64 [N]: those asked for in turn, or as params have it."""
    if given.labels is None:
        return sampler.labels_of(seeds)
    place = {seed: k for k, seed in enumerate(given.seeds)}
    return torch.tensor([given.labels[place[seed] % len(given.labels)] for seed in seeds])


def made(
    given: argparse.Namespace,
    sampler: Sampler,
    denoise: ConditionalDenoise,
    seeds: Sequence[int],
) -> Iterator[tuple[int, torch.Tensor, int]]:
    """The seeds with their images uint8 [3, R, R] and labels."""

    def own(part: Sequence[int]) -> torch.Tensor:
        return labels_of(given, sampler, part)

    for part, images in sampler.images(denoise, seeds, own):
        yield from zip(part, images.cpu(), own(part).tolist(), strict=True)


def write_files(given: argparse.Namespace, sampler: Sampler, denoise: ConditionalDenoise) -> None:
    """{seed}.png each."""
    who = ranks()
    mine = given.seeds[who.rank :: who.size]  # whatever the other ranks have written meanwhile
    missing = [seed for seed in mine if not _file(given, seed).exists()]
    images = made(given, sampler, denoise, missing)
    for seed, image, _ in track(images, "sample", len(missing), "img"):
        with replacing(_file(given, seed)) as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="png")


def write_shards(given: argparse.Namespace, sampler: Sampler, denoise: ConditionalDenoise) -> None:
    """{first seed}.tar of up to SHARD images each; ranks take shards in turn."""
    who = ranks()
    for start in range(0, len(given.seeds), SHARD)[who.rank :: who.size]:
        seeds = given.seeds[start : start + SHARD]
        path = given.out / f"samples-{seeds[0]:09d}.tar"
        if not path.exists():
            images = track(made(given, sampler, denoise, seeds), path.stem, len(seeds), "img")
            write_shard(
                path,
                (
                    image_sample(f"{seed:09d}", image.permute(1, 2, 0).numpy(), label)
                    for seed, image, label in images
                ),
            )


def draw(given: argparse.Namespace, sampler: Sampler) -> None:
    """grid.png: the first classes, the first seeds of each."""
    labels = labels_of(given, sampler, given.seeds)
    shown = torch.cat([(labels == k).nonzero()[:SHOWN, 0] for k in labels.unique()[:SHOWN]])
    images = [torch.from_numpy(np.array(Image.open(_file(given, given.seeds[k])))) for k in shown]
    write_class_grid(
        given.out / "grid.png",
        torch.stack(images).permute(0, 3, 1, 2),
        labels[shown],
        sampler.classes,
    )


def _file(given: argparse.Namespace, seed: int) -> Path:
    path: Path = given.out / f"{seed:09d}.png"
    return path
