"""latents → models/guide/X: snapshots of a network that guides config X, if params choose one."""

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Train the guide of one config, or import a published one."""
    from edm2.pipeline.guide import train_guide

    train_guide(context)


def external_inputs(params: Params) -> str:
    """The published pickles that `guidance` names."""
    from edm2.pipeline import guide

    return guide.external_inputs(params)


if __name__ == "__main__":
    main(run, external_inputs)
