"""Images of a source → shards of one resolution, split into training and held-out."""

import numpy as np

from edm2.data.preparation import prepare_images
from edm2.data.prepared import list_images
from edm2.data.sources import Source, open_source
from edm2.data.tally import Tally, printable
from edm2.params import Params
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process, on_main_process
from edm2.runtime.manifest import write_manifest


def prepare(context: StageContext) -> None:
    """Write the images of `dataset.source` as WebDataset shards, each rank some of them; or only list
    them, if they are not stored.
    """
    out, params = context.out(IMAGES), context.params
    dataset = params.dataset
    source = on_main_process(lambda: open_source(dataset))  # one scan for all ranks
    if is_main_process():
        print("\n".join(summary(source)))
    try:
        if dataset.stored:
            workers = params.runtime.workers
            metadata = prepare_images(source, out, dataset, dataset.seed, workers)
        elif is_main_process():
            print(
                "images are not stored (dataset.stored): damaged ones are found when they are read"
            )
            metadata = list_images(source, out, dataset, dataset.seed)
    finally:
        if is_main_process():
            for line in getattr(source, "doubtful", Tally()).lines():
                print(f"warning: {line}")
    if is_main_process():
        left_out: Tally = getattr(source, "left_out", Tally())
        write_manifest(out, **metadata, left_out=dict(left_out.counts))


def summary(source: Source) -> list[str]:
    """What is read and what is left out, in total, for each class and for each reason."""
    left_out: Tally = getattr(source, "left_out", Tally())
    read = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    without = getattr(source, "left_out_per_class", [0] * len(read))
    reasons = [f"  left out: {line}" for line in left_out.lines()]
    return [
        f"{len(source.labels)} images are read, {left_out.counts.total()} files or folders are left out",
        *(
            f"  class {printable(name)}: {images} images" + f", {others} left out" * (others > 0)
            for name, images, others in zip(source.classes, read, without, strict=True)
        ),
        *reasons,
    ]


def external_inputs(params: Params) -> str:
    """The source's images, which dvc.yaml cannot name."""
    return open_source(params.dataset).identity()
