"""latents → models/diffusion/X, reports/training/X: one training of a config."""

from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Train the denoiser of one config with one seed; keep snapshots of its averages."""
    from edm2.pipeline.denoiser_training import train_replicate

    train_replicate(context)


if __name__ == "__main__":
    main(run)
