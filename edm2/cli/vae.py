"""`edm2 vae`: VAEs without a project."""

from pathlib import Path

import click

from edm2.cli.option_types import FILE


@click.group()
def vae() -> None:
    """Train a VAE on any images, without a project, and average its weights."""


@vae.command()
@click.argument("out", type=FILE)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--images",
    required=True,
    metavar="IMAGES",
    help="Images to train on: tars, like '/data/{00000..00098}.tar', a folder, or a zip.",
)
@click.option(
    "--held-out",
    metavar="IMAGES",
    help="Other images, which are not trained on: all metrics and pictures are of these.  [required]",
)
@click.option(
    "--preset",
    default="f8d4",
    show_default=True,
    metavar="NAME",
    help="f8d4, f8d16 or f16d32: see above.",
)
@click.option(
    "--resolution",
    type=click.IntRange(min=1),
    help="Side of the images in pixels, to which their center squares are resized.  [default: 256]",
)
@click.option("--mlflow", is_flag=True, help="Log to MLflow, too: nothing is by default.")
@click.option(
    "--tracking-uri", help="MLflow store, with --mlflow; default: MLFLOW_TRACKING_URI, or .mlflow."
)
def train(
    out: Path,
    changes: tuple[str, ...],
    images: str,
    held_out: str | None,
    preset: str,
    resolution: int | None,
    mlflow: bool,
    tracking_uri: str | None,
) -> None:
    """Train a VAE in the folder OUT; what was stopped continues with the same command.

    \b
    Presets, by the factor between sides of images and latents, and the latents' channels:
      f8d4    8× smaller, 4 channels, as Stable Diffusion's
      f8d16   8× smaller, 16 channels, as FLUX's
      f16d32  16× smaller, 32 channels

    KEY=VALUE changes what a preset has for a key of `vae` or `runtime`, which `edm2 vae preset NAME` prints:
    vae.channels=64 runtime.device=cuda:1. On several GPUs: torchrun --nproc_per_node=8 --no-python
    edm2 vae train OUT ...

    OUT receives the VAE, models/vae, which vae.init.path of a project takes; reports/vae with metrics, curves
    and pictures; log.jsonl; options.json; and the state of the training. For diffusers:
    edm2 export vae FOLDER --from OUT
    """
    from edm2.params.errors import UserError
    from edm2.params.vae_options import VaeOptions
    from edm2.runtime.distributed import ranks
    from edm2.runtime.interruption import raise_at_signals

    _refuse_option(out)
    if held_out is None:
        raise UserError(
            "--held-out: missing. Expected images that are not trained on, like the last of the tars: "
            "--images '/data/{00000..00098}.tar' --held-out /data/00099.tar."
        )
    if tracking_uri is not None and not mlflow:
        raise UserError("--tracking-uri: has an effect only with --mlflow. Add it, or remove this.")
    raise_at_signals()
    options = VaeOptions(images, held_out, preset, resolution, changes, mlflow, tracking_uri)
    params = options.params(ranks().world_size)
    from edm2.pipeline.vae_alone import train_alone

    train_alone(params, out)


def _refuse_option(out: Path) -> None:
    """Raises UserError if it is KEY=VALUE: the folder was forgotten."""
    from edm2.params.errors import UserError
    from edm2.params.vae_options import SECTIONS

    if "=" in out.name and out.name.startswith(tuple(f"{section}." for section in SECTIONS)):
        raise UserError(
            f"OUT: missing: {out.name} is an option. Expected a new folder before all KEY=VALUE, like my-vae."
        )


@vae.command()
@click.argument("name")
def preset(name: str) -> None:
    """Print all values of a preset of `edm2 vae train`, which KEY=VALUE can change."""
    from edm2.params.presets import vae_preset_sections
    from edm2.params.vae_options import SECTIONS

    click.echo(vae_preset_sections(name, SECTIONS), nl=False)


@vae.command()
@click.argument("snapshots", type=FILE)
@click.argument("out", type=FILE)
@click.option(
    "--ema-length", type=float, required=True, help="EMA length of the average, like 0.08."
)
@click.option(
    "--nimg", type=int, help="Time in images at which the average ends; default: the last."
)
def average(snapshots: Path, out: Path, ema_length: float, nimg: int | None) -> int:
    """Write the VAE at an EMA length to the folder OUT, which is a codec like models/vae.

    SNAPSHOTS is models/vae_snapshots of a project or of `edm2 vae train`. The exit status is 1 if the average
    has a large error.
    """
    from edm2.params.errors import UserError
    from edm2.pipeline.vae_average import save_average

    try:
        made = save_average(snapshots, ema_length, nimg, out)
    except ValueError as error:
        raise UserError(f"--ema-length {ema_length:g}: {error}") from None
    click.echo(
        f"{out}: the VAE at EMA length {ema_length:g}, {made.nimg:,} images; error of the response function "
        f"{made.error:.2g}, from {made.snapshots} snapshots"
    )
    return int(not made.trustworthy)
