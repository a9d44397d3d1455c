"""Images of any network: `python -m edm2.sampling NETWORK`.

NETWORK is a file of models/sweep/<config>/, or one that `python -m edm2.ema reconstruct` wrote. All else,
the network's shape, codec and normalization of latents, is that of params.yaml and of the project's
data/latents and models/vae. Writes an image per seed, or shards of them; those that are there already
are kept, so that an interrupted run goes on. A grid by class stands beside them.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edm2.params import Params, UserError, load
from edm2.params.diffusion import Letter

if TYPE_CHECKING:
    import torch

    from stages.sampler import Sampler

SHARD = 1000  # images
SHOWN = 16  # columns of the grid


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m edm2.sampling", description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    found.add_argument("network", type=Path, metavar="NETWORK")
    found.add_argument("--config", choices=get_args(Letter), default="G", help="default: G")
    found.add_argument("--seeds", type=numbers, default=range(64), metavar="SEEDS",
                       help="first to last, like 0-49999, or a list, like 3,7; default: 0-63")  # fmt: skip
    found.add_argument("--labels", type=classes, default=None, metavar="CLASSES",
                       help="class numbers that the seeds take in turn, like 3 or 0,1,2; default: "
                       "as sampling.labels has it")  # fmt: skip
    found.add_argument("--guide", type=Path, metavar="NETWORK",
                       help="of the shape that guidance.changes says; default: the network itself, "
                       "without labels")  # fmt: skip
    found.add_argument("--strength", type=float, default=1.0, metavar="W",
                       help="of guidance; default: 1, none")  # fmt: skip
    found.add_argument("--out", type=Path, default=Path("samples"), help="default: samples")
    found.add_argument("--format", choices=("png", "shards"), default="png",
                       help="a file per image (default), or WebDataset shards")  # fmt: skip
    found.add_argument("--params", default="params.yaml", help="default: params.yaml")
    return found


def numbers(text: str) -> Sequence[int]:
    """Seeds: first to last, as in 3-5, or a list, as in 3,4,5."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if found and int(found[1]) <= int(found[2]):
        return range(int(found[1]), int(found[2]) + 1)
    return classes(text)


def classes(text: str) -> Sequence[int]:
    """Numbers with commas between them."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers, like 3,7 (seeds: or 0-63)")
    return [int(part) for part in text.split(",")]


def main() -> int:
    given = parser().parse_args()
    try:
        sample(given, load(given.params).of(given.config))
    except UserError as error:
        print(f"sample: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sample: interrupted; run the same again to continue.", file=sys.stderr)
        return 130
    return 0


def sample(given: argparse.Namespace, params: Params) -> None:
    """Make the images that are not there yet; ranks share them."""
    from edm2.runtime.device import pick_device
    from edm2.runtime.distributed import barrier, process_group, ranks
    from stages.sampler import Sampler

    device = pick_device(params.runtime)
    with process_group(device):
        sampler = Sampler(params, given.config, device)
        if given.labels and max(given.labels) >= len(sampler.classes):
            raise UserError(f"--labels {max(given.labels)}: expected classes below "
                            f"{len(sampler.classes)}.")  # fmt: skip
        if ranks().first:
            claim(given, params)
        barrier()
        (write_shards if given.format == "shards" else write_files)(given, sampler)
        barrier()
        if given.format == "png" and ranks().first:
            draw(given, sampler)


def claim(given: argparse.Namespace, params: Params) -> None:
    """samples.json: what the images of the folder are, so that a folder never mixes two.

    Raises:
        UserError: the folder holds images of something else.
    """
    import json

    from edm2.runtime.files import sha256, write_json

    files = (given.network, given.guide)
    together = given.labels or given.format == "shards"  # which seeds there are shapes each file
    facts = {
        "networks": [sha256(path) if path and path.is_file() else None for path in files],
        "strength": given.strength, "labels": given.labels, "format": given.format,
        "seeds": str(given.seeds) if together else None,
        "config": given.config, "guidance": params.guidance.model_dump(mode="json"),
        "sampling": params.sampling.model_dump(mode="json", exclude={"batch"}),
    }  # fmt: skip
    path = given.out / "samples.json"
    if not path.exists():
        given.out.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key in facts if facts[key] != before.get(key)]
    if differing:
        raise UserError(f"--out {given.out}: it holds images made otherwise ({', '.join(differing)} "
                        "differ). Name another folder, or remove it.")  # fmt: skip


def labels_of(
    given: argparse.Namespace, sampler: "Sampler", seeds: Sequence[int]
) -> "torch.Tensor":
    import torch

    if given.labels is None:
        return sampler.labels_of(seeds)
    place = {seed: k for k, seed in enumerate(given.seeds)}
    return torch.tensor([given.labels[place[seed] % len(given.labels)] for seed in seeds])


def made(
    given: argparse.Namespace, sampler: "Sampler", seeds: Sequence[int]
) -> Iterator[tuple[int, "torch.Tensor", int]]:
    """The seeds with their images uint8 [3, R, R] and labels."""
    denoise = sampler.denoise(given.network, given.guide, given.strength)

    def own(part: Sequence[int]) -> "torch.Tensor":
        return labels_of(given, sampler, part)

    for part, images in sampler.images(denoise, seeds, own):
        yield from zip(part, images.cpu(), own(part).tolist(), strict=True)


def write_files(given: argparse.Namespace, sampler: "Sampler") -> None:
    """{seed}.png each."""
    from PIL import Image

    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import replacing

    who = ranks()
    mine = given.seeds[who.rank :: who.size]  # whatever the other ranks have written meanwhile
    missing = [seed for seed in mine if not _file(given, seed).exists()]
    for seed, image, _ in made(given, sampler, missing):
        with replacing(_file(given, seed), durable=False) as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="png")


def write_shards(given: argparse.Namespace, sampler: "Sampler") -> None:
    """{first seed}.tar of up to SHARD images each; ranks take shards in turn."""
    from edm2.data.images import image_sample
    from edm2.data.shards import write_shard
    from edm2.runtime.distributed import ranks

    who = ranks()
    for start in range(0, len(given.seeds), SHARD)[who.rank :: who.size]:
        seeds = given.seeds[start : start + SHARD]
        path = given.out / f"samples-{seeds[0]:09d}.tar"
        if not path.exists():
            write_shard(path, (image_sample(f"{seed:09d}", image.permute(1, 2, 0).numpy(), label)
                               for seed, image, label in made(given, sampler, seeds)))  # fmt: skip


def draw(given: argparse.Namespace, sampler: "Sampler") -> None:
    """grid.png: a row per class of the first seeds."""
    import numpy as np
    import torch
    from PIL import Image

    from edm2.reporting.grids import write_class_grid

    seeds = given.seeds[: SHOWN * len(set(given.labels or sampler.classes[:SHOWN]))]
    images = [torch.from_numpy(np.array(Image.open(_file(given, seed)))) for seed in seeds]
    write_class_grid(given.out / "grid.png", torch.stack(images).permute(0, 3, 1, 2),
                     labels_of(given, sampler, seeds), sampler.classes)  # fmt: skip


def _file(given: argparse.Namespace, seed: int) -> Path:
    path: Path = given.out / f"{seed:09d}.png"
    return path


if __name__ == "__main__":
    sys.exit(main())
