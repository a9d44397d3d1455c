"""The codec of the pipeline: a trained VAE or another codec, evaluated on held-out images."""

from dataclasses import replace
from pathlib import Path

import torch

from edm2.data.images import ImageDataset
from edm2.data.prepared import has_images, open_images
from edm2.features.backbones import load_backbone
from edm2.params import Params
from edm2.params.checks import project_root
from edm2.params.seams import CODECS
from edm2.params.vae import Vae
from edm2.pipeline.outputs import (
    note_without_images,
    write_curves,
    write_metrics,
    write_no_curves,
    write_table,
)
from edm2.pipeline.paths import FEATURES, IMAGES, VAE, VAE_SNAPSHOTS
from edm2.pipeline.reconstruction_distance import reconstruction_distance
from edm2.pipeline.runner import StageContext
from edm2.pipeline.vae_averages import COLUMNS, VaeAverages
from edm2.pipeline.vae_images import check_images, describe_tars, open_web_images, shards
from edm2.pipeline.vae_trainer import HeldOut, VaeTraining, quality
from edm2.reporting.grids import write_rows
from edm2.runtime.distributed import barrier, is_main_process
from edm2.runtime.files import describe
from edm2.runtime.manifest import write_manifest
from edm2.vae.codec import load_codec
from edm2.vae.precision import vae_precision
from edm2.vae.published import save_codec

CURVES, METRICS = "reports/vae/curves.csv", "reports/vae/metrics.json"
EMA = "reports/vae/ema.csv"
GRID, PROGRESS = "reports/vae/reconstructions.png", "reports/vae/progress"


def train_vae(context: StageContext) -> None:
    """Train the VAE, or save the codec that params choose; evaluate reconstructions of held-out images,
    if there are any.
    """
    if not has_images(IMAGES):
        _save_without_images(context)
        return
    params = context.params
    if trains_vae(params):
        params = vae_precision(params, context.state.folder, context.device)
        context = replace(context, params=params)
    from_shards = open_web_images(params)
    skipped = check_images(context, from_shards, trains_vae(params)) if from_shards else {}
    images, held_out = from_shards.values() or open_images(IMAGES, "train", "held_out")
    train_and_evaluate(context, images, held_out, skipped)


def train_and_evaluate(
    context: StageContext, images: ImageDataset, others: ImageDataset, skipped: dict[str, float]
) -> None:
    """Train the VAE, or save the codec that params choose, and evaluate it.

    Args:
        others: held-out images.
        skipped: more metrics: numbers of skipped images.
    """
    params, out = context.params, context.out(VAE)
    held_out = _held_out(params.vae, others, context.device)
    averages = _train(context, images, held_out) if trains_vae(params) else None
    if averages is None and is_main_process():
        _save_codec(context)
    barrier()
    codec = load_codec(out, context.device)
    metrics = held_out.final_metrics(codec)
    if averages is not None:
        _write_averages(context, averages.compare(held_out.final_metrics, metrics, context.device))
    if is_main_process():
        grid = context.out(GRID)
        held_out.draw(codec, grid, trains_vae(params) and params.vae.losses.low_pass > 0)
        context.run.log_artifact(grid)
        write_metrics(context, METRICS, metrics | skipped)
        context.conclude(quality(metrics))


def _held_out(vae: Vae, images: ImageDataset, device: torch.device) -> HeldOut:
    backbone = load_backbone(vae, FEATURES, project_root(), device)
    distance = reconstruction_distance(vae, images, FEATURES, project_root(), device)
    return HeldOut(images, backbone, device, vae.evaluate_images, distance)


def _train(context: StageContext, images: ImageDataset, held_out: HeldOut) -> VaeAverages:
    averages = VaeTraining(
        title=context.title,
        params=context.params.vae,
        runtime=context.params.runtime,
        root=project_root(),
        images=images,
        held_out=held_out,
        device=context.device,
        state=context.state,
        run=context.run,
        out=context.out(VAE),
        snapshots=context.out(VAE_SNAPSHOTS),
        pictures=context.out(PROGRESS),
    ).train()
    if is_main_process():
        write_curves(context, CURVES)
    return averages


def _write_averages(context: StageContext, rows: list[dict[str, float]]) -> None:
    """The table of the averages, and each metric over EMA length in the run."""
    if is_main_process():
        import pandas as pd

        write_table(context, EMA, pd.DataFrame(rows, columns=None if rows else [*COLUMNS]))
        for row in rows:
            metrics = {f"average/{key}": value for key, value in row.items() if key not in COLUMNS}
            step = round(1000 * row["ema_length"])
            context.run.log(step, metrics, axis="ema_length_permille")


def _save_codec(context: StageContext) -> None:
    """Save the codec that params choose, with an empty training curve and no pictures over time."""
    kind = context.params.codec.kind
    print(f"note: codec.kind is {kind}, so no VAE is trained.")
    save_codec(context.params.codec, context.out(VAE), project_root())
    write_no_curves(context, CURVES)
    for folder in (context.out(PROGRESS), context.out(VAE_SNAPSHOTS)):
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder)
    _write_averages(context, [])


def _save_without_images(context: StageContext) -> None:
    """Save the codec; there is nothing to reconstruct."""
    note_without_images("no reconstructions are evaluated")
    if is_main_process():
        _save_codec(context)
        write_metrics(context, METRICS, {})
        write_rows(context.out(GRID), {"no images": torch.zeros(0, 3, 1, 1, dtype=torch.uint8)})
        context.conclude(f"codec {context.params.codec.kind}")


def trains_vae(params: Params) -> bool:
    """Whether the codec is trained here."""
    return CODECS[params.codec.kind].save is None


def external_inputs(params: Params) -> str:
    """The files that `vae` and `codec` name and dvc.yaml cannot list.

    Of tars the names of their images, of other files size and time.
    """
    groups = list[list[Path]]()
    for weights in filter(None, (params.vae.backbone_path, params.vae.detector_path)):
        groups.append([project_root() / weights])
    start = params.vae.init.path if trains_vae(params) else None
    for folder in filter(None, (params.codec.path, start)):
        groups.append(
            sorted(path for path in (project_root() / folder).iterdir() if path.is_file())
        )
    return "\n\n".join(
        [images.identity for images in open_web_images(params).values()]
        + [describe(paths) for paths in groups]
    )


def watched_inputs(params: Params) -> str:
    """Sizes and times of the tars, which may change while a training is under way."""
    return "\n".join(tar for paths in shards(params) for tar in describe_tars(paths))
