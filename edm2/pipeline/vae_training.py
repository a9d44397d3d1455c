"""The codec of the pipeline: a trained VAE or another codec, evaluated on held-out images."""

from dataclasses import replace
from math import inf
from pathlib import Path

import torch

from edm2.data.images import ImageDataset, to_float, to_uint8
from edm2.data.prepared import has_images, open_images
from edm2.features.backbone import Backbone
from edm2.features.backbones import load_backbone
from edm2.params import Params
from edm2.params.checks import project_root
from edm2.params.seams import CODECS
from edm2.pipeline.outputs import (
    note_without_images,
    write_curves,
    write_metrics,
    write_no_curves,
)
from edm2.pipeline.paths import FEATURES, IMAGES, VAE
from edm2.pipeline.reconstruction_distance import reconstruction_distance
from edm2.pipeline.runner import StageContext
from edm2.pipeline.vae_images import (
    GRID_IMAGES,
    check_images,
    describe_tars,
    open_web_images,
    shards,
)
from edm2.reporting.grids import write_rows
from edm2.runtime.device import activation_dtype
from edm2.runtime.distributed import barrier, is_main_process
from edm2.runtime.files import describe
from edm2.runtime.loop import Every, train
from edm2.runtime.randomness import torch_seed
from edm2.vae.batches import batches
from edm2.vae.codec import Codec, TrainedVae, load_codec, save_vae
from edm2.vae.evaluation import SetDistance, evaluate
from edm2.vae.initialization import initialize
from edm2.vae.low_pass import low_pass_mask
from edm2.vae.network import Autoencoder
from edm2.vae.precision import vae_precision
from edm2.vae.published import save_codec
from edm2.vae.training import VaeTask

CURVES, METRICS = "reports/vae/curves.csv", "reports/vae/metrics.json"
GRID = "reports/vae/reconstructions.png"


def train_vae(context: StageContext) -> None:
    """Train the VAE, or save the codec that params choose; evaluate reconstructions of held-out images,
    if there are any.
    """
    if not has_images(IMAGES):
        _save_without_images(context)
        return
    params, out = context.params, context.out(VAE)
    if trains_vae(params):
        params = vae_precision(params, context.state.folder, context.device)
        context = replace(context, params=params)
    from_shards = open_web_images(params)
    skipped = check_images(context, from_shards, trains_vae(params)) if from_shards else {}
    images, held_out = from_shards or open_images(IMAGES, "train", "held_out")
    backbone = load_backbone(params.vae, FEATURES, project_root(), context.device)
    distance = reconstruction_distance(
        params.vae, held_out, FEATURES, project_root(), context.device
    )
    if trains_vae(params):
        network = _train(context, images, held_out, backbone, distance)
        if is_main_process():
            save_vae(network.cpu(), params.vae, out)
            write_curves(context, CURVES)
    elif is_main_process():
        _save_codec(context)
    barrier()
    codec = load_codec(out, context.device)
    metrics = evaluate(
        codec, held_out, backbone, context.device, params.vae.evaluate_images, distance
    )
    if is_main_process():
        _draw_reconstructions(context, codec, held_out)
        if metrics["psnr"] == inf:  # JSON has none; the report mentions exact reconstructions
            del metrics["psnr"]
        write_metrics(context, METRICS, metrics | skipped)
        quality = {"PSNR {:.2f} dB": metrics.get("psnr", inf), "SSIM {:.4g}": metrics["ssim"]}
        context.conclude(", ".join(text.format(value) for text, value in quality.items()))


def _save_codec(context: StageContext) -> None:
    """Save the codec that params choose, with an empty training curve."""
    kind = context.params.codec.kind
    print(f"note: codec.kind is {kind}, so no VAE is trained.")
    save_codec(context.params.codec, context.out(VAE), project_root())
    write_no_curves(context, CURVES)


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
        [images.identity for images in open_web_images(params)]
        + [describe(paths) for paths in groups]
    )


def watched_inputs(params: Params) -> str:
    """Sizes and times of the tars, which may change while a training is under way."""
    return "\n".join(tar for paths in shards(params) for tar in describe_tars(paths))


def _train(
    context: StageContext,
    images: ImageDataset,
    held_out: ImageDataset,
    backbone: Backbone,
    distance: SetDistance | None,
) -> Autoencoder:
    params, runtime = context.params.vae, context.params.runtime
    seed = params.seed
    torch.manual_seed(torch_seed(seed, "vae/init"))
    network = Autoencoder(params)
    if params.init.path is not None:
        initialize(network, params, project_root() / params.init.path)
    network = network.to(context.device)
    if runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    codec = TrainedVae(network, params)

    def evaluate_held_out(nimg: int) -> dict[str, float]:
        metrics = evaluate(
            codec, held_out, backbone, context.device, params.evaluate_images, distance
        )
        return {f"held_out/{key}": value for key, value in metrics.items()}

    task = VaeTask(
        network, params, backbone, seed, context.device, activation_dtype(runtime), runtime.compile
    )
    train(
        context.title,
        task,
        batches(images, params, seed, runtime, context.device),
        params,
        context.state,
        context.run,
        checkpoint_seconds=runtime.checkpoint_seconds,
        nonfinite_patience=runtime.nonfinite_patience,
        remedy=_remedy(context.params),
        every=[Every(params.evaluate_nimg, evaluate_held_out)],
    )
    return network.eval()


def _remedy(params: Params) -> str:
    """What to do if the training diverges."""
    vae = params.vae
    precision = "" if params.runtime.precision == "fp32" else ", or set runtime.precision to fp32"
    return (
        f"Lower vae.lr ({vae.lr:g}) or vae.lr_input ({vae.lr_input:g}), lengthen vae.warmup_nimg "
        f"({vae.warmup_nimg}){precision}."
    )


def _draw_reconstructions(context: StageContext, codec: Codec, held_out: ImageDataset) -> None:
    """Held-out images, their reconstructions, and the mask of the low-pass loss if it is used."""
    images, _ = held_out.batch(range(min(GRID_IMAGES, len(held_out))))
    decoded = codec.decode(codec.encode(images.to(context.device))[0]).cpu()
    rows = {"image": images, "decoded": decoded}
    if trains_vae(context.params) and context.params.vae.losses.low_pass:
        rows["mask"] = to_uint8(low_pass_mask(to_float(images)) * 2 - 1).expand_as(images)
    grid = context.out(GRID)
    write_rows(grid, rows)
    context.run.log_artifact(grid)
