"""images → data/images: shards of one resolution, split into training and held-out."""

from edm2.params import Params
from stages.entry import Place, main


def work(place: Place) -> None:
    """Prepare the images of `dataset.source` as WebDataset shards."""
    from edm2.data.preparation import prepare_images
    from edm2.data.sources import open_source
    from edm2.runtime.manifest import write_manifest

    out, dataset = place.out("data/images"), place.params.dataset
    facts = prepare_images(open_source(dataset), out, dataset, dataset.seed)
    write_manifest(out, **facts)


def outside(params: Params) -> str:
    """The source's own images, which dvc.yaml cannot name."""
    from edm2.data.sources import open_source

    return open_source(params.dataset).identity()


if __name__ == "__main__":
    main(work, outside)
