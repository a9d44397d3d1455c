"""The snapshot store of a config: of its own training, or of published networks."""

from edm2.ema.gather import gather
from edm2.ema.store import SnapshotStore
from edm2.params import Params
from edm2.pipeline.paths import store_folder, training_folder
from edm2.pipeline.published import describe_published, import_published, published_files
from edm2.pipeline.runner import StageContext


def snapshot_emas(context: StageContext) -> None:
    """Write the store: every snapshot readable, finite and of one network."""
    params, out = context.params, context.out(store_folder(context.config))
    if params.ema.source == "published":
        import_published(published_files(params.ema.path), out, params.diffusion)
    else:
        source = SnapshotStore(training_folder(context.config))
        gather(source, out, params.diffusion.duration_nimg)


def external_inputs(params: Params) -> str:
    """Names and sizes of the published pickles, which dvc.yaml cannot name."""
    return describe_published(params.ema.path)
