"""images, vae, reference → reports/baselines: Fréchet distances to compare with."""

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Distance of held-out images and of their reconstructions to the training images."""
    from edm2.pipeline.baselines import write_baselines

    write_baselines(context)


def external_inputs(params: Params) -> str:
    """The files that `evaluation` names."""
    from edm2.pipeline import detection

    return detection.external_inputs(params)


if __name__ == "__main__":
    main(run, external_inputs)
