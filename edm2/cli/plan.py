"""`edm2 plan`: what the params will cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm2.cli.amount import Amount
from edm2.cli.project import ProjectContext

if TYPE_CHECKING:
    from edm2.planning.intervals import PastEffects
    from edm2.planning.plan import Device

FILE_KEYS = (  # problems of what this machine lacks, which costs nothing to plan
    "dataset.path",
    "dataset.held_out_path",
    "dataset.classes",
    "evaluation.detector_path",
    "evaluation.reference",
    "runtime.compile",
    "vae.detector_path",
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
    type=Amount(1e-4, 1, "0.35 for 35 %"),
    default=0.35,
    show_default=True,
    help="Part of the peak speed that is reached.",
)
@click.option("--images", type=click.IntRange(min=2), help="Of the dataset, if it is not here.")
@click.option("--classes", type=click.IntRange(min=1), help="Of the dataset, with --images.")
@click.option(
    "--measure", is_flag=True, help="Time the computations on this machine, and say how long."
)
@click.option(
    "--from",
    "revisions",
    multiple=True,
    metavar="REVISION",
    help="Past runs that show what seeds and samples buy, as for `edm2 compare`; may be repeated; default: "
    "workspace.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def plan(
    project: ProjectContext,
    /,
    file: Path | None,
    measure: bool,
    revisions: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Print what FILE (default: the project's params.yaml) will cost, before anything runs.

    For each stage: images, operations, memory of a GPU, disk, GPU hours at a stated speed. Nothing is
    computed, unless --measure times every computation for about a second. From past runs with several seeds:
    what more seeds and samples cost, and how much narrower intervals become. ImageNet without its files:
    --images 1281167 --classes 1000.
    """
    import time

    from edm2.params import load
    from edm2.params.yaml_file import read_yaml
    from edm2.pipeline.past_seconds import past_seconds
    from edm2.planning.dataset import dataset_size
    from edm2.planning.intervals import options_of
    from edm2.planning.plan import Planner
    from edm2.planning.sampling import search_text
    from edm2.planning.text import intervals_text, plan_text

    if file is None or project.root is not None:
        root = project.enter()  # paths in FILE are relative to the project
        file = file or root / "params.yaml"
    params = load(file, FILE_KEYS if options["images"] is not None else ())
    device = _device(options["gpu"], options["tflops"], options["memory"], options["utilization"])
    size = dataset_size(params, options["images"], options["classes"])
    past = past_effects(read_yaml(file), revisions)
    planner = Planner(params, device, time.perf_counter if measure else None)
    result = planner.plan(size, past_seconds(params))
    more = options_of(result, params, past.effects)
    if as_json:
        intervals = past.as_json() | {"options": [o.as_json() for o in more]}
        click.echo(json.dumps({**result.as_json(), "intervals": intervals}, indent=2))
    else:
        parts = [plan_text(result), search_text(params), intervals_text(result, past, more)]
        click.echo("\n\n".join(part for part in parts if part))


def past_effects(planned: dict[str, Any], revisions: Sequence[str]) -> "PastEffects":
    """What past runs show; without `revisions`, those in the workspace, where a problem is a note.

    Raises:
        UserError: revisions cannot be read or compared.
    """
    from edm2.params import UserError
    from edm2.pipeline.past_runs import past_networks
    from edm2.pipeline.revisions import WORKSPACE
    from edm2.planning.intervals import PastEffects

    try:
        return PastEffects.of(past_networks(planned, revisions or (WORKSPACE,)))
    except UserError as error:
        if revisions:
            raise
        return PastEffects("", {}, str(error))


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
