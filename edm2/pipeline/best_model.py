"""The best network of the report, as a model in MLflow."""

import sys

from edm2 import __version__
from edm2.diffusion.pretrained import CARD
from edm2.params import Params, UserError
from edm2.pipeline import image_model
from edm2.pipeline.export_choice import Choice, choose_best
from edm2.pipeline.export_network import export_choice
from edm2.pipeline.paths import IMAGES
from edm2.pipeline.run_datasets import dataset_name, datasets_of
from edm2.pipeline.runner import StageContext
from edm2.runtime.delivery.models import Model
from edm2.runtime.manifest import load_manifest
from edm2.runtime.temporaries import remove


def log_best_model(context: StageContext) -> None:
    """Log the best network of all trainings, as `edm2 export network` writes it, if params ask for that.

    The report does not depend on networks: where they are missing or damaged there is a warning.
    """
    params = context.params
    if not (params.tracking.mlflow and params.tracking.log_model):
        return
    try:
        choice = choose_best(params, None)
        name = f"{dataset_name(params.dataset)} {choice.replicate}".replace(" ", "-")
        folder = context.state.folder / name
        remove(folder)  # of an earlier launch
        export_choice(params, choice, None, folder)
    except (UserError, OSError) as error:
        print(f"warning: MLflow does not get the best network as a model: {error}", file=sys.stderr)
        return
    note = (folder / CARD).read_text(encoding="utf-8")
    context.run.log_model(_model(name, params, choice, note), folder)


def _model(name: str, params: Params, choice: Choice, card: str) -> Model:
    resolution = load_manifest(IMAGES)["resolution"]
    extra = "[sd]" if params.codec.kind == "stable_diffusion" else ""
    guidance, compared = choice.evaluation["guidance"], datasets_of("fid", params)
    known = {
        "config": choice.replicate.config,
        "seed": choice.replicate.seed,
        "network": choice.file.stem,
        "guidance": guidance,
        **choice.average,
    }
    return Model(
        name=name,
        loader=image_model.__name__,
        signature=image_model.signature(
            resolution,
            params.sampling.steps,
            guidance
            if params.guidance.guide == "unlabeled"
            else 1.0,  # others are not in the folder
        ),
        requirements=[f"edm2{extra}=={__version__}"],
        metrics=choice.evaluation["metrics"],
        params={key: str(value) for key, value in known.items()},
        note=without_header(card),
        dataset=[dataset[key] for dataset in compared for key in ("name", "digest")],
    )


def without_header(card: str) -> str:
    """A model card without its YAML header."""
    return card.partition("---\n")[2].partition("---\n")[2].lstrip() or card
