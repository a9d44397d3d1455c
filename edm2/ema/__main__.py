"""Post-hoc EMA on any folder of snapshots, without a pipeline: `python -m edm2.ema`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from edm2.ema.reconstruct import Target, reconstruct_files
from edm2.ema.store import SnapshotStore, check_snapshots
from edm2.params import UserError
from edm2.params.grid import parse_grid
from edm2.runtime.files import write_json

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if an average is not to be trusted; 2 for wrong input."""
    given = _parser().parse_args(arguments)
    try:
        status = int(given.run(given))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, ValueError, OSError) as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 2


def _list(given: argparse.Namespace) -> int:
    store = SnapshotStore(given.store)
    print("images\tEMA length\taverage\tfile")
    for snapshot in store.snapshots:
        print(f"{snapshot.nimg}\t{snapshot.sigma_rel:g}\t{snapshot.average}\t{snapshot.file}")
    return 0


def _verify(given: argparse.Namespace) -> int:
    store = SnapshotStore(given.store)
    check_snapshots(store)
    print(
        f"{given.store}: {len(store.snapshots)} snapshots up to {store.end} images: all readable, "
        "finite, of one network."
    )
    return 0


def _reconstruct(given: argparse.Namespace) -> int:
    store = SnapshotStore(given.store)
    nimg = store.end if given.nimg is None else given.nimg
    targets = {
        given.out / f"{nimg:012d}-sigma_rel-{length!r}.safetensors": Target(length, nimg)
        for length in given.std
    }
    taken = [str(path) for path in targets if path.exists()]
    if taken and not given.force:
        raise UserError(f"{taken[0]}: exists already. Choose another --out, or say --force.")
    made = reconstruct_files(store, targets, DTYPES[given.dtype])
    print("EMA length\timages\terror\tsum of weights\tsnapshots\tfile")
    for path, spec in zip(targets, made, strict=True):
        print(
            f"{spec.sigma_rel:g}\t{spec.nimg}\t{spec.error:.3g}\t{spec.weight_sum:.4f}"
            f"\t{spec.snapshots}\t{path}"
        )
    index = given.out / "averages.json"
    described = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    described |= {path.name: asdict(spec) for path, spec in zip(targets, made, strict=True)}
    write_json(index, described)
    wrong = [f"{spec.sigma_rel:g}" for spec in made if not spec.trustworthy]
    if wrong:
        print(
            f"warning: the snapshots cannot make EMA length {', '.join(wrong)} well: see the error "
            "of the response function. Take more snapshots, or lengths nearer to theirs.",
            file=sys.stderr,
        )
    return int(bool(wrong))


def _lengths(text: str) -> list[float]:
    try:
        values = parse_grid(text) if "by" in text else [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected EMA lengths like 0.05,0.10 or a range like '0.05...0.25 by 0.01'"
        ) from None
    return [float(value) for value in values]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edm2.ema", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("list", _list, "what snapshots a store holds"),
        ("verify", _verify, "read every snapshot: checksums, finite values, one network"),
        ("reconstruct", _reconstruct, "make averages of any EMA length"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("store", type=Path, metavar="STORE", help="folder of snapshots")
        command.set_defaults(run=run)
    command.add_argument(
        "--std",
        type=_lengths,
        required=True,
        metavar="LENGTHS",
        help="EMA lengths σ_rel: 0.05,0.10 or '0.05...0.25 by 0.01'",
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the averages")
    command.add_argument("--nimg", type=int, help="time in images at which they end; default: last")
    command.add_argument("--dtype", choices=DTYPES, default="float16", help="default: %(default)s")
    command.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


if __name__ == "__main__":
    sys.exit(main())
