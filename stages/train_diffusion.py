"""latents → models/diffusion/X, reports/training/X: one training configuration."""

from stages.entry import Place, main


def work(place: Place) -> None:
    """Train the denoiser of one configuration; keep snapshots of its averages."""
    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import write_text
    from edm2.runtime.manifest import write_manifest
    from stages.reports import write_curves
    from stages.training import train_denoiser

    config, curves = place.config, f"reports/training/{place.config}.csv"
    out = place.out(f"models/diffusion/{config}")
    if place.params.ema.source == "training":
        train_denoiser(place, place.params, out)
        if ranks().first:
            write_curves(place, curves)
    elif ranks().first:
        print(f"note: ema.source is published: config {config} is not trained here.")
        out.mkdir(exist_ok=True)
        write_manifest(out)
        write_text(place.out(curves), "nimg\n")


if __name__ == "__main__":
    main(work)
