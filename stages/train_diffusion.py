"""latents → models/diffusion/X, reports/training/X: one training config."""

from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Train the denoiser of one config; keep snapshots of its averages."""
    from edm2.pipeline.denoiser_training import train_config

    train_config(context)


if __name__ == "__main__":
    main(run)
