"""snapshots of a training, or published networks → models/ema/X: the snapshot store."""

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Write the index of a training's snapshots, or import published networks."""
    from edm2.pipeline.snapshots import snapshot_emas

    snapshot_emas(context)


def external_inputs(params: Params) -> str:
    """The published pickles that `ema` names."""
    from edm2.pipeline import snapshots

    return snapshots.external_inputs(params)


if __name__ == "__main__":
    main(run, external_inputs)
