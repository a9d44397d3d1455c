"""`edm2 ema`: post-hoc EMA of any training, without a pipeline."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm2.cli.ema_import import import_averages
from edm2.cli.option_types import EmaLengths
from edm2.params.errors import UserError

if TYPE_CHECKING:
    from edm2.ema.reconstruct import Reconstruction
    from edm2.ema.store import SnapshotStore

IMPORTED = "snapshots"  # folder in --out of what was read from pickles

STORE = click.argument("store", type=click.Path(path_type=Path))


@click.group()
def ema() -> None:
    """Make averages of any EMA length from a folder of snapshots (STORE)."""


ema.add_command(import_averages)


@ema.command("list")
@STORE
def list_snapshots(store: Path) -> None:
    """List the snapshots of STORE."""
    from edm2.ema.store import SnapshotStore

    snapshots = SnapshotStore(store).snapshots
    click.echo("images\tEMA length\taverage\tfile")
    for snapshot in snapshots:
        row = (snapshot.nimg, f"{snapshot.sigma_rel:g}", snapshot.average, snapshot.file)
        click.echo("\t".join(map(str, row)))


@ema.command()
@STORE
def verify(store: Path) -> None:
    """Read every snapshot of STORE: checksums, finite values, one network."""
    from edm2.ema.store import SnapshotStore, check_headers, check_values
    from edm2.runtime.manifest import MANIFEST
    from edm2.runtime.verification import damaged_files

    snapshots = SnapshotStore(store)
    folder = snapshots.folder
    problems = damaged_files([folder], "ema-*") if (folder / MANIFEST).exists() else []
    if problems:
        raise UserError("\n".join(problems))
    check_headers(snapshots)
    check_values(snapshots)
    click.echo(
        f"{store}: {len(snapshots.snapshots)} snapshots up to {snapshots.end} images: all are "
        "readable, finite and of one network."
    )


@ema.command()
@click.argument("store", type=click.Path(path_type=Path), required=False)
@click.option(
    "--from",
    "pickles",
    help="Instead of STORE: a folder of network pickles of EDM2's authors, or a pattern of their paths in "
    "quotes.",
)
@click.option(
    "--lengths",
    type=EmaLengths(),
    required=True,
    help="EMA lengths: 0.05,0.10 or '0.05...0.25 by 0.01'.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the averages."
)
@click.option(
    "--nimg",
    type=int,
    help="Time in images at which the averages end; default: the last.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
)
@click.option(
    "--normalize/--no-normalize",
    default=True,
    show_default=True,
    help="Divide the weights of the snapshots by their sum.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
def reconstruct(
    store: Path | None,
    pickles: str | None,
    lengths: list[float],
    out: Path,
    nimg: int | None,
    dtype: str,
    normalize: bool,
    force: bool,
) -> int:
    """Make averages of EMA lengths from the snapshots of STORE.

    A manifest beside the averages lists them with their checksums, for `edm2 sample`. With --from, pickles
    are read once, into the store OUT/snapshots, and config.json describes what sampling needs.
    The exit status is 1 if a reconstruction has a large error.
    """
    import torch

    from edm2.ema.reconstruct import Target, reconstruct_files
    from edm2.pipeline.paths import AVERAGES
    from edm2.runtime.checked_json import write_checked
    from edm2.runtime.manifest import add_to_manifest

    snapshots = _snapshots(store, pickles, out)
    end = snapshots.end if nimg is None else nimg
    targets = {
        out / f"{end:012d}-ema_length-{length!r}.safetensors": Target(length, end)
        for length in lengths
    }
    if not force:
        _refuse_to_replace(targets, out)
    index = out / AVERAGES
    descriptions = _read_descriptions(index)
    described = _copy_description(snapshots.folder, out)
    try:
        averages = reconstruct_files(snapshots, targets, getattr(torch, dtype), normalize)
    except ValueError as error:
        raise UserError(str(error)) from None
    made = dict(zip(targets, averages, strict=True))
    write_checked(index, descriptions | {path.name: asdict(made[path]) for path in made}, AVERAGES)
    add_to_manifest(out, [*targets, *described])
    return int(not _print_averages(made))


def _refuse_to_replace(targets: Iterable[Path], out: Path) -> None:
    """Raises UserError if one exists. The manifest is last: a file that it lacks is of a killed command."""
    from edm2.runtime.manifest import MANIFEST, load_manifest

    listed = load_manifest(out)["files"] if (out / MANIFEST).exists() else {}
    for path in targets:
        if path.name in listed and path.exists():
            raise UserError(f"{path}: already exists. Choose another --out, or use --force.")
        if path.exists():
            click.echo(f"note: {path}: of a command that was interrupted; made again.", err=True)


def _snapshots(store: Path | None, pickles: str | None, out: Path) -> "SnapshotStore":
    """Those of a store, or of pickles, which are imported; exactly one of them is named."""
    from edm2.ema.store import SnapshotStore

    if store is not None and pickles is None:
        return SnapshotStore(store)
    if store is None and pickles is not None:
        return _import(pickles, out)
    raise click.UsageError("expected either STORE or --from: a store, or pickles.")


def _import(pickles: str, out: Path) -> "SnapshotStore":
    """The store of published networks in `out`, made of a folder of pickles or a pattern of paths."""
    import glob

    from edm2.pipeline.published_store import import_networks

    pattern = f"{glob.escape(pickles)}/*.pkl" if Path(pickles).is_dir() else pickles
    paths = [Path(name) for name in sorted(glob.glob(pattern)) if name.endswith(".pkl")]
    if not paths:
        raise UserError(
            f"--from {pickles}: no network pickles of EDM2's authors (*.pkl). For other averages, "
            "make a store first, with `edm2 ema import`."
        )
    return import_networks(paths, out / IMPORTED)


def _copy_description(store: Path, out: Path) -> list[Path]:
    """Copy what sampling from the averages needs, if the store has it; return the copied files.

    Raises:
        UserError: the folder has averages of another network.
    """
    import shutil

    from edm2.diffusion.pretrained import CODEC, CONFIG
    from edm2.runtime.files import replacing

    original, description = store / CONFIG, out / CONFIG
    if not original.exists():
        return []
    if description.exists() and description.read_bytes() != original.read_bytes():
        raise UserError(
            f"{description}: describes other networks than {original}. Choose another --out."
        )
    sources = [original, *(p for p in (store / CODEC).rglob("*") if p.is_file())]
    copies = [out / source.relative_to(store) for source in sources]
    for source, copy in zip(sources, copies, strict=True):
        with replacing(copy) as partial:
            shutil.copyfile(source, partial)
    return copies


def _print_averages(averages: Mapping[Path, "Reconstruction"]) -> bool:
    """Print a table of averages by file, and a warning about large errors; return whether there are none."""
    click.echo("EMA length\timages\terror\tsum of weights\tsnapshots\tfile")
    for path, average in averages.items():
        click.echo(
            f"{average.sigma_rel:g}\t{average.nimg}\t{average.error:.3g}\t{average.weight_sum:.4f}"
            f"\t{average.snapshots}\t{path}"
        )
    inaccurate = [f"{a.sigma_rel:g}" for a in averages.values() if not a.trustworthy]
    if inaccurate:
        print(
            f"warning: EMA length {', '.join(inaccurate)}: large error of the response function. Take "
            "more snapshots, or choose EMA lengths closer to those of the snapshots.",
            file=sys.stderr,
        )
    return not inaccurate


def _read_descriptions(index: Path) -> dict[str, Any]:
    """Properties of the averages that are already in the folder, by file."""
    from edm2.runtime.checked_json import read_checked

    remedy = "Remove it, or choose another --out."
    return read_checked(index, remedy, remedy, index.name) if index.exists() else {}
