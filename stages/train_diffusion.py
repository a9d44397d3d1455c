"""latents → models/diffusion/X, reports/training/X: one training configuration."""

from dataclasses import asdict
from pathlib import Path

from stages.entry import Place, main


def work(place: Place) -> None:
    """Train the denoiser of one configuration; keep snapshots of its averages."""
    import torch

    from edm2.data.latents import LatentShards
    from edm2.diffusion.setup import denoiser_for, save_network
    from edm2.diffusion.training import DenoiserTask, batches
    from edm2.ema.gather import write_index
    from edm2.ema.store import SnapshotStore, remove_snapshots_after, write_snapshot
    from edm2.ema.tracker import PowerEMA, TraditionalEMA
    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import write_text
    from edm2.runtime.loop import Every, train
    from edm2.runtime.manifest import write_manifest
    from edm2.runtime.randomness import torch_seed
    from stages.reports import write_curves

    config, params, seed = place.config, place.params, place.params.seed
    out = place.out(f"models/diffusion/{config}")
    out.mkdir(exist_ok=True)
    if params.ema.source == "published":
        print(f"note: ema.source is published: config {config} is not trained here.")
        if ranks().first:
            write_manifest(out)
            write_text(place.out(f"reports/training/{config}.csv"), "nimg\n")
        return
    latents = LatentShards(Path("data/latents"), "train")
    torch.manual_seed(torch_seed(seed, "diffusion/init"))
    denoiser = denoiser_for(config, params, latents.shape, len(latents.classes)).to(place.device)
    ladder, ema = denoiser.ladder, params.ema
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

    task = DenoiserTask(denoiser, average, params.diffusion, seed, place.device,
                        params.runtime.compile)  # fmt: skip
    train(place.title, task, batches(latents, ladder, seed), params.diffusion,
          place.state, place.run, checkpoint_seconds=params.runtime.checkpoint_seconds,
          every=[Every(ema.snapshot_nimg, snapshot)],
          rollback=lambda nimg: remove_snapshots_after(out, nimg))  # fmt: skip
    if ranks().first:
        save_network(denoiser, out / "network.safetensors")
        write_index(SnapshotStore(out))
        write_curves(place, f"reports/training/{config}.csv")


if __name__ == "__main__":
    main(work)
