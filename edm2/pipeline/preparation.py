"""Images of a source → shards of one resolution, split into training and held-out."""

from functools import lru_cache
from typing import cast

import numpy as np

from edm2.data.latent_import import require_shape
from edm2.data.preparation import prepare_images
from edm2.data.prepared import list_images
from edm2.data.sources import LabeledSource, LatentSource, Source, open_source
from edm2.data.tally import Tally, printable
from edm2.params import Params
from edm2.params.checks import project_root
from edm2.params.codec_checks import latent_layout
from edm2.params.dataset import Dataset
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process, on_main_process
from edm2.runtime.manifest import write_manifest

NOT_STORED = "images are not stored (dataset.stored): damaged ones are found when they are read"
NOT_IMPORTED = (
    "latents are imported by the stage encode_latents, which finds damaged ones; without images, stages that "
    "need them have empty results"
)
MAX_CLASSES = 20  # that are printed one by one


def prepare(context: StageContext) -> None:
    """Write the images of `dataset.source` as WebDataset shards, each rank some of them; or only list
    them, if they are not stored.
    """
    out, params = context.out(IMAGES), context.params
    dataset = params.dataset
    source = on_main_process(lambda: _scan(dataset))  # one scan for all ranks
    _scan.cache_clear()
    known = _warnings(source)
    if is_main_process():
        print("\n".join(summary(source, "images" if dataset.has_images else "latents")))
    try:
        if dataset.stored and dataset.has_images:
            workers = params.runtime.workers
            metadata = prepare_images(cast(Source, source), out, dataset, dataset.seed, workers)
        elif is_main_process():
            print(NOT_STORED if dataset.has_images else NOT_IMPORTED)
            if not dataset.has_images:
                _check_shape(params, cast(LatentSource, source))
            metadata = list_images(source, out, dataset, dataset.seed)
    finally:
        if is_main_process():
            for line in _warnings(source):
                if line not in known:
                    print(line)
    if is_main_process():
        left_out: Tally = getattr(source, "left_out", Tally())
        left_out_by_class = _left_out_by_class(source)
        images = metadata["images"]
        count = f"{images['train']:,} training and {images['held_out']:,} held-out images"
        if not dataset.has_images:
            count = f"{images['train']:,} latents"
        context.conclude(f"{count} of {len(metadata['classes'])} classes")
        write_manifest(out, **metadata, left_out=dict(left_out.counts), **left_out_by_class)


def _check_shape(params: Params, source: LatentSource) -> None:
    """Compare the latents with the codec of the params now; the stage that imports them will do it again."""
    layout, resolution = latent_layout(params, project_root()), params.dataset.resolution
    assert layout is not None  # checked at load
    shape = (layout[1], resolution // layout[0], resolution // layout[0])
    require_shape(source, params.dataset, shape, f"codec.kind {params.codec.kind}")


def summary(source: LabeledSource, what: str = "images") -> list[str]:
    """What is read and what is left out: in total, by class, and by reason; then warnings."""
    left_out: Tally = getattr(source, "left_out", Tally())
    held_out = getattr(source, "held_out_images", 0)
    of_these = f" ({held_out} of them are held out)" if held_out else ""
    return [
        f"{len(source.labels)} {what} are read{of_these}, {left_out.counts.total()} files or folders "
        "are left out",
        *_classes(source, what),
        *(f"  left out: {line}" for line in left_out.lines()),
        *_warnings(source),
    ]


def _classes(source: LabeledSource, what: str) -> list[str]:
    """The images of each class, or of many classes the smallest, the median and the largest."""
    read = np.bincount(source.labels, minlength=len(source.classes))
    without = getattr(source, "left_out_per_class", [])
    if len(read) > MAX_CLASSES:
        least, most = int(read.argmin()), int(read.argmax())
        return [
            f"  {len(read)} classes of {read[least]} ({printable(source.classes[least])}) to "
            f"{read[most]} ({printable(source.classes[most])}) {what}, {np.median(read):g} in the median; "
            "data/images/manifest.json has all"
        ]
    return [
        f"  class {printable(name)}: {images} {what}" + f", {others} left out" * (others > 0)
        for name, images, others in zip(
            source.classes, read, without or [0] * len(read), strict=True
        )
    ]


def _warnings(source: LabeledSource) -> list[str]:
    return [f"warning: {line}" for line in getattr(source, "doubtful", Tally()).lines()]


def _left_out_by_class(source: LabeledSource) -> dict[str, list[int]]:
    """How many files in the folder of each class are not read, where that is known."""
    counts = getattr(source, "left_out_per_class", [])
    return {"left_out_per_class": counts} if any(counts) else {}


def external_inputs(params: Params) -> str:
    """The source's images, which dvc.yaml cannot name."""
    _scan.cache_clear()
    return _scan(params.dataset).identity()


@lru_cache(maxsize=1)
def _scan(dataset: Dataset) -> LabeledSource:
    """The source, for the description of inputs and then for the stage: images are listed once."""
    return open_source(dataset)
