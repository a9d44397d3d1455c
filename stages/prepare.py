"""images → data/images: shards of one resolution, split into training and held-out."""

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Write the images of `dataset.source` as WebDataset shards."""
    from edm2.pipeline.preparation import prepare

    prepare(context)


def external_inputs(params: Params) -> str:
    """The source's images, which dvc.yaml cannot name."""
    from edm2.pipeline import preparation

    return preparation.external_inputs(params)


if __name__ == "__main__":
    main(run, external_inputs)
