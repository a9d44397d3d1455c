"""networks, reference, vae, features → reports/fid/X.csv, reports/samples/X: metrics and samples."""

from typing import Any

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Generate images with every network of the sweep and compute their metrics."""
    from edm2.pipeline.sweep_evaluation import evaluate_sweep

    evaluate_sweep(context)


def external_inputs(params: Params) -> str:
    """The files that `evaluation` names."""
    from edm2.pipeline import detection

    return detection.external_inputs(params)


def share(*launch: Any) -> None:
    """Evaluate networks while another launch runs this stage."""
    from edm2.pipeline.sweep_evaluation import share_evaluation

    share_evaluation(*launch)


if __name__ == "__main__":
    main(run, external_inputs, share=share)
