"""The snapshot store of a training: snapshots of its training, or published networks."""

import os

from edm2.ema.index import index_training
from edm2.ema.store import SnapshotStore
from edm2.params import Params
from edm2.pipeline.paths import store_folder, training_folder
from edm2.pipeline.published import describe_published, import_published, published_files
from edm2.pipeline.runner import StageContext


def snapshot_emas(context: StageContext) -> None:
    """Write the store: an index of the training's snapshots, or the published networks."""
    params, store = context.params, store_folder(context.replicate)
    if params.ema.source == "published":
        import_published(published_files(params.ema.path), context.out(store), params.diffusion)
        context.conclude(f"published networks of {params.ema.path}")
    else:
        training, end = training_folder(context.replicate), params.diffusion.duration_nimg
        snapshots = SnapshotStore(training)
        index_training(snapshots, context.out(store), os.path.relpath(training, store), end)
        context.conclude(f"{len(snapshots.snapshots)} snapshots up to {end:,} images")


def external_inputs(params: Params) -> str:
    """Names and sizes of the published pickles, which dvc.yaml cannot name."""
    return describe_published(params.ema.path)
