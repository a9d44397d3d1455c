"""The training of one denoiser: latents, network, averages and training loop."""

from dataclasses import asdict
from pathlib import Path

import torch

from edm2.data.latents import LatentShards
from edm2.diffusion.batches import batches
from edm2.diffusion.precision import denoiser_precision
from edm2.diffusion.setup import denoiser_for, prepare_training, save_network
from edm2.diffusion.training import DenoiserTask
from edm2.ema.index import write_index
from edm2.ema.snapshot import remove_snapshots_after
from edm2.ema.store import SnapshotStore
from edm2.ema.tracker import build_tracker
from edm2.ema.training import snapshots_every
from edm2.params import Params
from edm2.params.configs import TrainingConfig
from edm2.pipeline.outputs import write_curves, write_no_curves
from edm2.pipeline.paths import LATENTS, training_folder
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.runtime.loop import train
from edm2.runtime.manifest import write_manifest
from edm2.runtime.randomness import torch_seed


def train_denoiser(context: StageContext, params: Params, out: Path) -> None:
    """Train the denoiser that `params` describe; write snapshots of its averages and its final
    weights to `out`.
    """
    config_name, seed = context.replicate.config, context.replicate.seed
    ema = params.ema
    out.mkdir(exist_ok=True)
    latents = LatentShards(LATENTS, "train")
    state = context.state.folder
    params = denoiser_precision(params, config_name, latents, state, context.device, trains=True)
    torch.manual_seed(torch_seed(seed, "diffusion/init"))
    denoiser = denoiser_for(config_name, params, latents.shape, len(latents.classes))
    denoiser = denoiser.to(context.device)
    prepare_training(denoiser, params.runtime, context.device)
    config = denoiser.config
    context.run.log_resolved_config(
        {"resolved": {**asdict(config), "precision": params.runtime.precision}}
    )
    average = build_tracker(denoiser.unet, config.average, ema)
    task = DenoiserTask(
        denoiser, average, params.diffusion, seed, context.device, params.runtime.compile
    )
    train(
        context.title,
        task,
        batches(
            latents,
            denoiser.objective,
            config.batch,
            params.diffusion.label_dropout,
            seed,
            params.runtime,
            context.device,
        ),
        params.diffusion,
        context.state,
        context.run,
        checkpoint_seconds=params.runtime.checkpoint_seconds,
        nonfinite_patience=params.runtime.nonfinite_patience,
        remedy=_remedy(config_name, config, params.runtime.precision),
        every=[snapshots_every(ema.snapshot_nimg, average, out)],
        rollback=lambda nimg: remove_snapshots_after(out, nimg),
    )
    save_network(denoiser, out / "network.safetensors")
    if is_main_process():
        write_index(SnapshotStore(out))


def _remedy(name: str, config: TrainingConfig, precision: str) -> str:
    """What to do if the training diverges."""
    ways = [
        f"lower diffusion.lr_ref ({config.lr_ref:g})",
        f"lengthen diffusion.lr_rampup_nimg ({config.lr_rampup_nimg})",
    ]
    if config.loss_scaling > 1:
        ways.append(f"lower diffusion.overrides.loss_scaling ({config.loss_scaling:g})")
    if precision == "fp16":
        ways.append("set runtime.precision to bf16 or fp32")
    return f"For config {name}, {', or '.join(ways)}; see also diffusion.per_config.{name}."


def train_replicate(context: StageContext) -> None:
    """Train the stage's denoiser; write its snapshots and its training curves."""
    out = context.out(training_folder(context.replicate))
    curves = f"reports/training/{context.replicate}.csv"
    if context.params.ema.source == "training":
        train_denoiser(context, context.params, out)
        if is_main_process():
            loss = write_curves(context, curves)["train/loss"].dropna().iloc[-1]
            images = f"{context.params.diffusion.duration_nimg:,}"
            context.conclude(f"trained for {images} images, loss {loss:.4g}")
    elif is_main_process():
        print(
            f"note: ema.source is published: config {context.replicate.config} is not trained here."
        )
        out.mkdir(exist_ok=True)
        write_manifest(out)
        write_no_curves(context, curves)
        context.conclude("nothing to train")
