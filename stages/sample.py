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
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from edm2.params import Params, UserError, load
from edm2.params.diffusion import Letter

NUMBER = r"\d{1,18}"  # fits into 64 bits


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m edm2.sampling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("network", type=Path, metavar="NETWORK")
    found.add_argument("--config", choices=get_args(Letter), default="G", help="default: G")
    found.add_argument(
        "--seeds",
        type=numbers,
        default=range(64),
        metavar="SEEDS",
        help="first to last, like 0-49999, or a list, like 3,7; default: 0-63",
    )
    found.add_argument(
        "--labels",
        type=classes,
        default=None,
        metavar="CLASSES",
        help="class numbers that the seeds take in turn, like 3 or 0,1,2; default: "
        "as sampling.labels has it",
    )
    found.add_argument(
        "--guide",
        type=Path,
        metavar="NETWORK",
        help="of the shape that guidance.changes says; default: the network itself, without labels",
    )
    found.add_argument(
        "--strength", type=weight, default=1.0, metavar="W", help="of guidance; default: 1, none"
    )
    found.add_argument("--out", type=Path, default=Path("samples"), help="default: samples")
    found.add_argument(
        "--format",
        choices=("png", "shards"),
        default="png",
        help="a file per image (default), or WebDataset shards",
    )
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no half files stay
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
    from stages.sample_folder import claim, draw, write_files, write_shards
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
        raise UserError(
            "--labels: expected a network that is told classes, and diffusion.conditional "
            "is false. Leave it out."
        )
    if given.labels and max(given.labels) >= classes:
        raise UserError(f"--labels {max(given.labels)}: expected classes below {classes}.")
    if given.guide and given.strength == 1:
        raise UserError(
            f"--guide {given.guide}: at strength 1 it changes nothing. Set --strength, or "
            "leave it out."
        )
    if given.strength != 1 and not given.guide and not params.diffusion.label_dropout:
        raise UserError(
            f"--strength {given.strength:g}: expected --guide, or a network trained with "
            "diffusion.label_dropout above 0: without it none has learned to do "
            "without labels."
        )


if __name__ == "__main__":
    sys.exit(main())
