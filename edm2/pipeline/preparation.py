"""Images of a source → shards of one resolution, split into training and held-out."""

from edm2.data.preparation import prepare_images
from edm2.data.sources import open_source
from edm2.params import Params
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.runner import StageContext
from edm2.runtime.manifest import write_manifest


def prepare(context: StageContext) -> None:
    """Write the images of `dataset.source` as WebDataset shards."""
    out, dataset = context.out(IMAGES), context.params.dataset
    metadata = prepare_images(open_source(dataset), out, dataset, dataset.seed)
    write_manifest(out, **metadata)


def external_inputs(params: Params) -> str:
    """The source's images, which dvc.yaml cannot name."""
    return open_source(params.dataset).identity()
