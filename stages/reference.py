"""images, features → data/reference: statistics of the training images' features."""

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Extract features of all training images, or import the statistics in evaluation.reference."""
    from edm2.pipeline.reference import write_reference

    write_reference(context)


def external_inputs(params: Params) -> str:
    """The files that `evaluation` names."""
    from edm2.pipeline import detection

    return detection.external_inputs(params)


if __name__ == "__main__":
    main(run, external_inputs)
