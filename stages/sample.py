"""Images of any network: `python -m edm2.sampling NETWORK`.

NETWORK is a file of models/sweep/<config>/, or one that `python -m edm2.ema reconstruct` wrote. All else,
the network's shape, codec and normalization of latents, is that of params.yaml and of the project's
data/latents and models/vae. Writes an image per seed, or shards of them; those that are there already
are kept, so that an interrupted run goes on. A grid by class stands beside single images.
"""

import argparse
import math
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edm2.params import Params, UserError, load
from edm2.params.diffusion import Letter

if TYPE_CHECKING:
    import torch

    from edm2.sampling.guidance import ConditionalDenoise
    from stages.sampler import Sampler

SHARD = 1000  # images
SHOWN = 16  # rows and columns of the grid, at most
NUMBER = r"\d{1,18}"  # fits into 64 bits


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
    found.add_argument("--strength", type=weight, default=1.0, metavar="W",
                       help="of guidance; default: 1, none")  # fmt: skip
    found.add_argument("--out", type=Path, default=Path("samples"), help="default: samples")
    found.add_argument("--format", choices=("png", "shards"), default="png",
                       help="a file per image (default), or WebDataset shards")  # fmt: skip
    found.add_argument("--params", default="params.yaml", help="default: params.yaml")
    return found


def numbers(text: str) -> Sequence[int]:
    """Seeds: first to last, as in 3-5, or a list, as in 3,4,5."""
    found = re.fullmatch(rf"({NUMBER})-({NUMBER})", text)
    if found and int(found[1]) <= int(found[2]):
        return range(int(found[1]), int(found[2]) + 1)
    listed = classes(text)
    if len(set(listed)) < len(listed):
        raise argparse.ArgumentTypeError(f"{text!r}: expected each seed once")
    return listed


def classes(text: str) -> Sequence[int]:
    """Numbers with commas between them."""
    if not re.fullmatch(rf"{NUMBER}(,{NUMBER})*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers, like 3,7 (seeds: or 0-63)")
    return [int(part) for part in text.split(",")]


def weight(text: str) -> float:
    """Strength of guidance: finite, 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, 0 or more; 1: no guidance")
    return found


def main() -> int:
    given = parser().parse_args()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl-C: nothing stays half written
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
        check(given, params, len(sampler.classes))
        denoise = sampler.denoise(given.network, given.guide, given.strength)
        if ranks().first:
            claim(given, params)
        barrier()
        (write_shards if given.format == "shards" else write_files)(given, sampler, denoise)
        barrier()
        if given.format == "png" and ranks().first:
            draw(given, sampler)


def check(given: argparse.Namespace, params: Params, classes: int) -> None:
    """
    Raises:
        UserError: classes that are not there, or words that would change nothing.
    """
    if given.labels and not params.diffusion.conditional:
        raise UserError("--labels: expected a network that is told classes, and diffusion.conditional "
                        "is false. Leave it out.")  # fmt: skip
    if given.labels and max(given.labels) >= classes:
        raise UserError(f"--labels {max(given.labels)}: expected classes below {classes}.")
    if given.guide and given.strength == 1:
        raise UserError(f"--guide {given.guide}: at strength 1 it changes nothing. Set --strength, or "
                        "leave it out.")  # fmt: skip
    if given.strength != 1 and not given.guide and not params.diffusion.label_dropout:
        raise UserError(f"--strength {given.strength:g}: expected --guide, or a network trained with "
                        "diffusion.label_dropout above 0: without it none has learned to do "
                        "without labels.")  # fmt: skip


def claim(given: argparse.Namespace, params: Params) -> None:
    """samples.json: what the images of the folder are, so that a folder never mixes two.

    Raises:
        UserError: the folder holds images of something else, or cannot be one.
    """
    import json

    from edm2.runtime.files import write_json

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
    from edm2.runtime.files import sha256
    from edm2.runtime.manifest import NAME

    together = given.labels or given.format == "shards"  # which seeds there are shapes each file
    guidance = params.guidance.model_dump(mode="json")
    return {
        "networks": [None if path is None else sha256(path) for path in (given.network, given.guide)],
        "codec": sha256(Path("models/vae") / NAME), "latents": sha256(Path("data/latents") / NAME),
        "strength": given.strength, "labels": given.labels, "format": given.format,
        "seeds": str(given.seeds) if together else None, "config": given.config,
        "interval": None if given.strength == 1 else guidance["interval"],
        "changes": guidance["changes"] if given.guide else None,
        "sampling": params.sampling.model_dump(mode="json", exclude={"batch"}),
        "precision": params.runtime.precision,
    }  # fmt: skip


def labels_of(
    given: argparse.Namespace, sampler: "Sampler", seeds: Sequence[int]
) -> "torch.Tensor":
    import torch

    if given.labels is None:
        return sampler.labels_of(seeds)
    place = {seed: k for k, seed in enumerate(given.seeds)}
    return torch.tensor([given.labels[place[seed] % len(given.labels)] for seed in seeds])


def made(
    given: argparse.Namespace,
    sampler: "Sampler",
    denoise: "ConditionalDenoise",
    seeds: Sequence[int],
) -> Iterator[tuple[int, "torch.Tensor", int]]:
    """The seeds with their images uint8 [3, R, R] and labels."""

    def own(part: Sequence[int]) -> "torch.Tensor":
        return labels_of(given, sampler, part)

    for part, images in sampler.images(denoise, seeds, own):
        yield from zip(part, images.cpu(), own(part).tolist(), strict=True)


def write_files(
    given: argparse.Namespace, sampler: "Sampler", denoise: "ConditionalDenoise"
) -> None:
    """{seed}.png each."""
    from PIL import Image

    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import replacing
    from edm2.runtime.progress import track

    who = ranks()
    mine = given.seeds[who.rank :: who.size]  # whatever the other ranks have written meanwhile
    missing = [seed for seed in mine if not _file(given, seed).exists()]
    images = made(given, sampler, denoise, missing)
    for seed, image, _ in track(images, "sample", len(missing), "img"):
        with replacing(_file(given, seed)) as temporary:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format="png")


def write_shards(
    given: argparse.Namespace, sampler: "Sampler", denoise: "ConditionalDenoise"
) -> None:
    """{first seed}.tar of up to SHARD images each; ranks take shards in turn."""
    from edm2.data.images import image_sample
    from edm2.data.shards import write_shard
    from edm2.runtime.distributed import ranks
    from edm2.runtime.progress import track

    who = ranks()
    for start in range(0, len(given.seeds), SHARD)[who.rank :: who.size]:
        seeds = given.seeds[start : start + SHARD]
        path = given.out / f"samples-{seeds[0]:09d}.tar"
        if not path.exists():
            images = track(made(given, sampler, denoise, seeds), path.stem, len(seeds), "img")
            write_shard(path, (image_sample(f"{seed:09d}", image.permute(1, 2, 0).numpy(), label)
                               for seed, image, label in images))  # fmt: skip


def draw(given: argparse.Namespace, sampler: "Sampler") -> None:
    """grid.png: the first classes, the first seeds of each."""
    import numpy as np
    import torch
    from PIL import Image

    from edm2.reporting.grids import write_class_grid

    labels = labels_of(given, sampler, given.seeds)
    shown = torch.cat([(labels == k).nonzero()[:SHOWN, 0] for k in labels.unique()[:SHOWN]])
    images = [torch.from_numpy(np.array(Image.open(_file(given, given.seeds[k])))) for k in shown]
    write_class_grid(given.out / "grid.png", torch.stack(images).permute(0, 3, 1, 2),
                     labels[shown], sampler.classes)  # fmt: skip


def _file(given: argparse.Namespace, seed: int) -> Path:
    path: Path = given.out / f"{seed:09d}.png"
    return path


if __name__ == "__main__":
    sys.exit(main())
