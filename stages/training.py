"""The training of one denoiser: where latents, network, averages and loop meet."""

from dataclasses import asdict
from pathlib import Path

import torch

from edm2.data.latents import LatentShards
from edm2.diffusion.setup import denoiser_for, save_network
from edm2.diffusion.training import DenoiserTask, batches
from edm2.ema.gather import write_index
from edm2.ema.store import SnapshotStore, remove_snapshots_after, write_snapshot
from edm2.ema.tracker import PowerEMA, TraditionalEMA
from edm2.params import Params
from edm2.runtime.distributed import ranks
from edm2.runtime.loop import Every, train
from edm2.runtime.randomness import torch_seed
from stages.entry import Place


def train_denoiser(place: Place, params: Params, out: Path) -> None:
    """Train the denoiser that `params` describe; snapshots of its averages and its last weights
    are written to `out`.
    """
    seed, ema = params.seed, params.ema
    out.mkdir(exist_ok=True)
    latents = LatentShards(Path("data/latents"), "train")
    torch.manual_seed(torch_seed(seed, "diffusion/init"))
    denoiser = denoiser_for(place.config, params, latents.shape, len(latents.classes))
    denoiser = denoiser.to(place.device)
    ladder = denoiser.ladder
    place.run.settled({"ladder": asdict(ladder)})
    average = (
        PowerEMA(denoiser.unet, ema.sigma_rels)
        if ladder.average == "power"
        else TraditionalEMA(denoiser.unet, ema.halflife_nimg, ema.halflife_rampup)
    )

    def snapshot(nimg: int) -> dict[str, float]:
        if ranks().first:
            for taken, tensors in average.snapshots(nimg).items():
                write_snapshot(out, taken, tensors, list(average.buffers))
        return {}

    task = DenoiserTask(
        denoiser, average, params.diffusion, seed, place.device, params.runtime.compile
    )
    train(
        place.title,
        task,
        batches(latents, ladder, params.diffusion.label_dropout, seed),
        params.diffusion,
        place.state,
        place.run,
        checkpoint_seconds=params.runtime.checkpoint_seconds,
        every=[Every(ema.snapshot_nimg, snapshot)],
        rollback=lambda nimg: remove_snapshots_after(out, nimg),
    )
    if ranks().first:
        save_network(denoiser, out / "network.safetensors")
        write_index(SnapshotStore(out))
