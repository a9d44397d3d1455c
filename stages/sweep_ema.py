"""snapshot stores → models/sweep/X: networks of the EMA lengths in params, and guides."""

from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Reconstruct one network per EMA length, time and tensor; copy averages of fixed length."""
    from edm2.pipeline.sweep import sweep_ema

    sweep_ema(context)


if __name__ == "__main__":
    main(run)
