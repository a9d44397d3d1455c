"""`edm2 ema import`: averages of other programs, as a snapshot store."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm2.cli.option_types import Numbers

if TYPE_CHECKING:
    from edm2.ema.checkpoint_files import Checkpoints
    from edm2.ema.snapshot import Snapshot
    from edm2.ema.store import SnapshotStore


@click.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the store.")
@click.option(
    "--pattern",
    help="Names of the files, like 'ckpt-{nimg}-{length}.pt' or 'checkpoint-{step}/ema.safetensors'. Times: "
    "{nimg}, {kimg}, {step}; averages: {length}, {decay}, {halflife}, or {index}, the number of one in the "
    "lists below; * is any text.",
)
@click.option("--nimg", type=click.IntRange(0), help="Time of a single file, in images.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    help="Images in a step; 1, the default, counts time in steps.",
)
@click.option(
    "--lengths", type=Numbers(), help="EMA length of the averages: one, or one per {index}."
)
@click.option("--gammas", type=Numbers(), help="Exponents γ instead of EMA lengths.")
@click.option(
    "--decays", type=Numbers(), help="Weight of the old average in each update, like 0.9999."
)
@click.option(
    "--rampup",
    type=float,
    help="With decays: upper limit of the half-life, relative to the training time so far, at most 1.",
)
@click.option(
    "--update-every",
    type=click.IntRange(1),
    help="Steps from one update of the averages to the next, as ema-pytorch was asked for.",
)
@click.option(
    "--key",
    default="",
    help="Where the tensors are in a file of nested dicts: ema, or state.ema. Default: where the only ones "
    "are.",
)
@click.option(
    "--copy",
    "copied",
    multiple=True,
    help="Names of tensors (*: any text) that are not averaged, but copied from the last snapshot; integers "
    "and statistics of BatchNorm always are.",
)
@click.option("--drop", "dropped", multiple=True, help="Names of tensors to leave out.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="Of the stored averages; default: as in the files.",
)
@click.option("--force", is_flag=True, help="Replace snapshots that were made from other files.")
def import_averages(
    sources: tuple[Path, ...], out: Path, pattern: str | None, force: bool, **options: Any
) -> None:
    """Make a folder of snapshots from averages of any training: SOURCES are files or folders.

    Files are safetensors, checkpoints of PyTorch, those of ema-pytorch's PostHocEMA ({index}.{step}.pt), or
    network pickles of EDM2's authors. The other commands take the folder as STORE. An import that was
    interrupted goes on where it was; a later one adds what is new.
    """
    from edm2.ema.checkpoint_files import find_checkpoints

    checkpoints = find_checkpoints(sources, pattern, out)
    if checkpoints.others:
        note = f"note: files in these folders, left out by their names: {checkpoints.others}"
        click.echo(note, err=True)
    if checkpoints.kind == "published":
        store = _import_published(checkpoints, out, options, force)
    else:
        store = _import_checkpoints(checkpoints, out, options, force)
    _print_result(store)


def _import_published(
    checkpoints: "Checkpoints", out: Path, options: dict[str, Any], force: bool
) -> "SnapshotStore":
    from edm2.pipeline.published_store import import_networks

    names = {"copied": "copy", "dropped": "drop", "update_every": "update-every"}
    for name, value in options.items():
        if value and (name, value) != ("batch", 1):
            raise click.UsageError(
                f"--{names.get(name, name)}: no effect on network pickles of EDM2's authors."
            )
    return import_networks(list(checkpoints.fields), out, force=force)


def _import_checkpoints(
    checkpoints: "Checkpoints", out: Path, options: dict[str, Any], force: bool
) -> "SnapshotStore":
    import torch

    from edm2.ema.importing import Selection, import_snapshots

    snapshots = _identify(checkpoints, options)
    dtype = getattr(torch, options["dtype"]) if options["dtype"] else None
    selection = Selection(options["key"], options["copied"], options["dropped"])
    return import_snapshots(
        snapshots, out, selection.read, repr(selection), dtype=dtype, force=force
    )


def _identify(checkpoints: "Checkpoints", options: dict[str, Any]) -> "dict[Path, Snapshot]":
    from edm2.ema.checkpoint_files import for_each
    from edm2.ema.checkpoint_names import Averages, identify
    from edm2.ema.profile import gamma_to_sigma_rel

    lengths = options["lengths"] or []
    if options["gammas"]:
        if lengths:
            raise click.UsageError("--gammas and --lengths: expected only one of them.")
        try:
            lengths = [gamma_to_sigma_rel(gamma) for gamma in options["gammas"]]
        except ValueError as error:
            raise click.UsageError(f"--gammas: {error}.") from None
    if options["nimg"] is not None and len(checkpoints.fields) > 1:
        raise click.UsageError(
            f"--nimg: the time of a single file, expected one in the names of {len(checkpoints.fields)}."
        )
    averages = Averages(
        options["nimg"],
        tuple(lengths),
        tuple(options["decays"] or ()),
        options["rampup"],
        options["batch"],
        options["update_every"],
        checkpoints.kind == "post_hoc_ema",
    )
    fields = checkpoints.fields
    return for_each(fields, lambda path: identify(path, fields[path], averages))


def _print_result(store: "SnapshotStore") -> None:
    """How many snapshots of which averages there are, and which tensors are copied."""
    by_kind = Counter(snapshot.average for snapshot in store.snapshots)
    kinds = ", ".join(f"{count} {kind}" for kind, count in by_kind.items())
    click.echo(f"{store.folder}: {kinds} averages up to {store.end}.")
    counts = (
        f"averaged: {len(store.parameters)}, copied from the last snapshot: {len(store.buffers)}"
    )
    click.echo(f"Tensors {counts}.")
