"""The snapshots of the network that guides a training's."""

from edm2.params import Params
from edm2.pipeline.denoiser_training import train_denoiser
from edm2.pipeline.paths import guide_folder
from edm2.pipeline.published import describe_published, import_published, published_files
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.runtime.manifest import write_manifest


def train_guide(context: StageContext) -> None:
    """Train the guide, import a published one, or write an empty folder for other guides."""
    params = context.params.guide_of(context.replicate.config)
    out = context.out(guide_folder(context.replicate))
    if params.guidance.guide == "trained":
        train_denoiser(context, params, out)
        context.conclude(f"trained for {params.diffusion.duration_nimg:,} images")
    elif is_main_process():
        out.mkdir(exist_ok=True)
        if params.guidance.guide == "published":
            import_published(published_files(params.guidance.path), out, params.diffusion)
        else:
            write_manifest(out)
        context.conclude(f"guidance.guide is {params.guidance.guide}: nothing to train")


def external_inputs(params: Params) -> str:
    """Names and sizes of the published pickles, which dvc.yaml cannot name."""
    return describe_published(params.guidance.path)
