"""`edm2 measure`: metrics of any images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edm2.cli.option_types import Names
from edm2.cli.parsing import OwnArgument, PathOrCommand
from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError

if TYPE_CHECKING:
    from edm2.params.evaluation import Evaluation
    from edm2.pipeline.measured_images import FeatureOptions
    from edm2.pipeline.measurement import Measurement

T = TypeVar("T", bound=Callable[..., Any])
DIGITS = "{:.6g}"  # of values on the terminal; files have all
TABLES = (".json", ".csv")
COLUMNS = {
    "metric": "metric",
    "value": "value",
    "standard_error": "standard error",
    "images": "images",
    "reference": "reference images",
}

OF_FEATURES = (
    click.argument("images", cls=OwnArgument),
    click.option(
        "--detector",
        "detectors",
        type=Names(),
        default="inception",
        show_default=True,
        help="Whose features: inception, dinov2, or both: inception,dinov2. In a project also classifier.",
    ),
    click.option(
        "--detector-path",
        "weights",
        multiple=True,
        metavar="[NAME=]FILE",
        help="Copy of a detector's weights; default: downloaded once.",
    ),
    click.option(
        "--resize",
        type=click.IntRange(min=1),
        help="Crop the center and resize all images to so many pixels; default: other sizes are refused.",
    ),
    click.option(
        "--crop",
        type=click.Choice(["lanczos", "adm"]),
        default="lanczos",
        show_default=True,
        help="How, with --resize: see dataset.crop.",
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), help="Images that a process reads at a time."
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
)


def of_features(command: T) -> T:
    for option in reversed(OF_FEATURES):
        command = option(command)
    return command


@click.group(cls=PathOrCommand)
@of_features
@click.option(
    "--reference",
    metavar="STATS",
    help="Real images, or a file of their statistics: .npz, .pkl, or of `edm2 measure reference`.",
)
@click.option(
    "--metrics",
    type=Names(),
    default="fd",
    show_default=True,
    help="Of fd, fd_inf, kid, precision, recall, is.",
)
@click.option("--samples", type=click.IntRange(min=1), help="Only the first images, by name.")
@click.option(
    "--allow-singular",
    is_flag=True,
    help="Compute Fréchet distances of no more images than dimensions.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, resolve_path=True),
    help="File for the values: .json or .csv.",
)
@click.pass_obj
def measure(project: ProjectContext, /, images: str, out: Path | None, **args: Any) -> None:
    """Measure IMAGES: compare them with real images, without a project.

    IMAGES is a folder (with all that is below it), a zip, or tars: '00000.tar' or '{00000..00099}.tar'.
    What is left out of them is named, and damaged images are errors. STATS is real images in any of these
    forms, or a file of statistics; kid, precision and recall need the images, or a file of `edm2 measure
    reference`, because published statistics have no features. On several GPUs, with the same values:
    torchrun --nproc_per_node=8 --no-python edm2 measure ...

    A folder with the name of a subcommand is ./reference.
    """
    _require_new(out, TABLES)
    options = _options(
        project,
        args,
        metrics=args["metrics"],
        reference=args["reference"],
        allow_singular=args["allow_singular"],
    )
    from edm2.pipeline.measurement import MeasureRequest
    from edm2.pipeline.measurement import measure as measure_images

    request = MeasureRequest(images, args["reference"], args["samples"], options)
    measurement = measure_images(request)
    if measurement is None:
        return  # not the main process
    click.echo(_table(measurement))
    for name in (row["metric"] for row in measurement.rows if row["singular"]):
        click.echo(
            f"warning: {name}: of no more images than dimensions, so a covariance is singular; compare it "
            "only with distances of the same counts.",
            err=True,
        )
    if out is not None:
        _write(measurement, out)


@measure.command()
@of_features
@click.option(
    "--out",
    type=click.Path(path_type=Path, resolve_path=True),
    required=True,
    help="File to write, .npz.",
)
@click.pass_obj
def reference(project: ProjectContext, /, images: str, out: Path, **args: Any) -> None:
    """Write the statistics of IMAGES to a file, to measure other images by.

    The file has means and covariances of all images, and the features of up to 50000 of them. The arrays mu
    and sigma, which EDM's tools read as well, are those of the first detector. A .pkl, as EDM2 has them, is
    not written: there is no pickle in this program.
    """
    _require_new(out, (".npz",))
    options = _options(project, args)
    from edm2.pipeline.measurement import write_reference

    write_reference(images, options, out)


def _options(
    project: ProjectContext, args: Mapping[str, Any], **evaluation: Any
) -> "FeatureOptions":
    """The params of the preset digits, changed by the options."""
    from pydantic import ValidationError
    from ruamel.yaml import YAML

    from edm2.params.presets import BASE, preset_text
    from edm2.params.runtime import Runtime
    from edm2.pipeline.measured_images import FeatureOptions
    from edm2.pipeline.reference import BATCH

    tree, device = YAML(typ="safe").load(preset_text(BASE)), args["device"]
    _load_plugins(project.root)
    try:
        runtime = Runtime.model_validate(tree["runtime"] | {"device": device})
    except ValidationError:
        raise UserError(f"--device {device}: expected auto, cpu, cuda or cuda:N.") from None
    return FeatureOptions(
        evaluations=_evaluations(args, tree["evaluation"] | evaluation),
        runtime=runtime,
        project=project.root,
        resize=args["resize"],
        crop=args["crop"],
        batch=BATCH if args["batch"] is None else args["batch"],
    )


def _evaluations(args: Mapping[str, Any], tree: Mapping[str, Any]) -> "tuple[Evaluation, ...]":
    """One for each detector, with the file of its weights."""
    from edm2.params.evaluation import Evaluation
    from edm2.params.seams import DETECTORS, METRICS

    detectors = args["detectors"]
    _require_known("--detector", detectors, DETECTORS)
    _require_known("--metrics", tree["metrics"], METRICS)
    files = _weights(args["weights"], detectors)
    return tuple(
        Evaluation.model_validate({**tree, "detector": name, "detector_path": files.get(name)})
        for name in detectors
    )


def _weights(paths: Sequence[str], detectors: Sequence[str]) -> dict[str, str]:
    """The file of each detector that has one."""
    from edm2.params.seams import DETECTORS

    files: dict[str, str] = {}
    for text in paths:
        name, separator, file = text.partition("=")
        if not separator or Path(text).is_file():
            name, file = detectors[0] if len(detectors) == 1 else "", text
        if name not in detectors or not DETECTORS[name].published or name in files:
            raise UserError(
                f"--detector-path {text}: expected NAME=FILE, once for each detector, of "
                f"{', '.join(detectors)}; classifier has none."
            )
        if not Path(file).is_file():
            raise UserError(
                f"--detector-path {text}: no such file. Correct the path, or leave it out."
            )
        files[name] = str(Path(file).resolve())
    return files


def _require_known(option: str, names: Sequence[str], registry: Mapping[str, Any]) -> None:
    from edm2.params.remedies import did_you_mean

    for name in names:
        if name not in registry:
            known = ", ".join(registry)
            raise UserError(
                f"{option} {name}: expected one of {known}. {did_you_mean(name, registry)}".rstrip()
            )


def _load_plugins(root: Path | None) -> None:
    """Import the plug-ins of installed packages, and those of the project, if there is one."""
    from edm2.params.registry import load_plugins
    from edm2.params.yaml_file import read_yaml

    tree = None if root is None else read_yaml(root / "params.yaml")
    names = tree.get("plugins") if isinstance(tree, dict) else None
    if problems := list(load_plugins(names, root or Path())):
        raise UserError("\n".join(map(str, problems)))


def _require_new(out: Path | None, endings: Sequence[str]) -> None:
    if out is None:
        return
    if out.suffix not in endings:
        raise UserError(f"--out {out}: expected a name that ends in {' or '.join(endings)}.")
    if out.exists():
        raise UserError(f"--out {out}: exists. Remove it, or give another name.")


def _table(measurement: "Measurement") -> str:
    import pandas as pd

    table = pd.DataFrame(measurement.rows)[list(COLUMNS)].rename(columns=COLUMNS)
    return table.to_string(index=False, na_rep="", float_format=DIGITS.format)


def _write(measurement: "Measurement", out: Path) -> None:
    """All digits of the values; JSON also has what they were computed from."""
    from dataclasses import asdict

    import pandas as pd

    from edm2.runtime.files import write_json, write_text

    if out.suffix == ".json":
        write_json(out, asdict(measurement))
    else:
        write_text(out, pd.DataFrame(measurement.rows).to_csv(index=False))
