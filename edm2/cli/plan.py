"""`edm2 plan`: what the params will cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm2.cli.amount import Amount
from edm2.cli.project import ProjectContext

if TYPE_CHECKING:
    from edm2.planning.plan import Device, Plan, Row

FILE_KEYS = (  # problems of what this machine lacks, which costs nothing to plan
    "dataset.path",
    "dataset.held_out_path",
    "dataset.classes",
    "evaluation.detector_path",
    "evaluation.reference",
    "runtime.compile",
)


@click.command()
@click.argument("file", required=False, type=click.Path(resolve_path=True, path_type=Path))
@click.option("--gpu", help="Kind of GPU, like h100 or a100-80gb.")
@click.option(
    "--tflops",
    type=Amount(1e-3, 1e5, "989 of an H100 in 16 bits"),
    help="Peak speed, instead of --gpu: 10^12 operations/s.",
)
@click.option(
    "--memory",
    type=Amount(3, 1e4, "80 (GiB)"),
    help="Memory of a GPU in GiB; default: that of --gpu.",
)
@click.option(
    "--utilization",
    type=Amount(1e-4, 1, "0.4 for 40 %"),
    default=0.4,
    show_default=True,
    help="Part of the peak speed that is reached.",
)
@click.option("--images", type=click.IntRange(min=2), help="Of the dataset, if it is not here.")
@click.option("--classes", type=click.IntRange(min=1), help="Of the dataset, with --images.")
@click.option(
    "--measure", is_flag=True, help="Time the computations on this machine, and say how long."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def plan(
    project: ProjectContext, /, file: Path | None, measure: bool, as_json: bool, **options: Any
) -> None:
    """Print what FILE (default: the project's params.yaml) will cost, before anything runs.

    For each stage: images, operations, memory of a GPU, disk, GPU hours at a stated speed. Nothing is
    computed, unless --measure times every computation for about a second. ImageNet without its files:
    --images 1281167 --classes 1000.
    """
    import time

    from edm2.params import load
    from edm2.planning.dataset import dataset_size
    from edm2.planning.plan import Planner
    from edm2.planning.sampling import search_text

    if file is None or project.root is not None:
        root = project.enter()  # paths in FILE are relative to the project
        file = file or root / "params.yaml"
    params = load(file, FILE_KEYS if options["images"] is not None else ())
    device = _device(options["gpu"], options["tflops"], options["memory"], options["utilization"])
    size = dataset_size(params, options["images"], options["classes"])
    result = Planner(params, device, time.perf_counter if measure else None).plan(size)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else _text(result))
    if params.sweep.search is not None and not as_json:
        click.echo(search_text(params))


def _device(
    gpu: str | None, tflops: float | None, memory: float | None, utilization: float
) -> "Device":
    """What the options say of the device.

    Raises:
        UserError: no such GPU.
        click.UsageError: options that exclude each other.
    """
    from edm2.planning.gpus import RESERVED_GIB, gpu_named
    from edm2.planning.plan import Device

    if gpu is not None and tflops is not None:
        raise click.UsageError("--gpu and --tflops: expected only one of them.")
    kind = None if gpu is None else gpu_named(gpu)
    peaks = None if kind is None else kind.tflops
    if tflops is not None:
        peaks = dict.fromkeys(("fp32", "bf16", "fp16"), tflops)
    rates = None if peaks is None else {name: peak * utilization for name, peak in peaks.items()}
    if memory is None and kind is not None:
        memory = kind.memory_gib
    return Device(rates, None if memory is None else (memory - RESERVED_GIB) * 2**30)


def _text(plan: "Plan") -> str:
    """The plan as a table, with totals, and warnings below it."""
    size = plan.size
    about = (
        f"{size.train} training and {size.held_out} held-out images of {size.classes} classes at "
        f"{size.resolution}x{size.resolution}, latents {'x'.join(map(str, size.latent_shape))}"
    )
    stated = plan.total("gpu_hours") is not None
    measured = plan.total("seconds") is not None
    head = ["stage", "images", "operations", "GiB a GPU", "disk"]
    head += ["GPU hours"] * stated + ["hours"] * stated + ["seconds"] * measured
    lines = [head, *(_cells(row, stated, measured) for row in plan.rows)]
    total = ["total", "", _si(plan.total("flops") or 0), "", _bytes(plan.total("disk_bytes") or 0)]
    if stated:
        total += [_number(plan.total("gpu_hours")), _number(sum(map(_hours, plan.rows)))]
    if measured:
        total.append(_number(plan.total("seconds")))
    scratch = max(row.scratch_bytes for row in plan.rows)
    notes = [f"Checkpoints take {_bytes(scratch)} more while a training runs."]
    if not size.measured:
        notes.append("Sizes of image files are those of ImageNet, not of these images.")
    if not stated and not measured:
        notes.append("State --gpu or --tflops for hours, or --measure for seconds on this machine.")
    notes += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join([about, "", _aligned([*lines, total]), "", *notes])


def _cells(row: "Row", stated: bool, measured: bool) -> list[str]:
    cells = [
        row.stage,
        str(row.images or ""),
        _si(row.flops) if row.flops else "",
        f"{row.memory_bytes / 2**30:.2f}" if row.memory_bytes else "",
        _bytes(row.disk_bytes) if row.disk_bytes else "",
    ]
    if stated:
        cells += [_number(row.gpu_hours), _number(_hours(row))]
    return [*cells, _number(row.seconds)] if measured else cells


def _hours(row: "Row") -> float:
    """Hours until a stage ends, on all its GPUs."""
    return (row.gpu_hours or 0.0) / row.ranks


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _si(value: float) -> str:
    """A number of operations, like 2.1 E."""
    for prefix, unit in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    """An amount of disk, like 390 GB."""
    for prefix, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value / 1e3:.3g} kB"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A text table: names left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
