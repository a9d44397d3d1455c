"""images, features → models/vae, reports/vae: the codec, and how well it reconstructs images."""

from edm2.params import Params
from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Train the VAE, or save the codec that params choose; evaluate held-out reconstructions."""
    from edm2.pipeline.vae_training import train_vae

    train_vae(context)


def external_inputs(params: Params) -> str:
    """The files that `vae` and `codec` name."""
    from edm2.pipeline import vae_training

    return vae_training.external_inputs(params)


def watched_inputs(params: Params) -> str:
    """The tars of `vae.images`."""
    from edm2.pipeline import vae_training

    return vae_training.watched_inputs(params)


if __name__ == "__main__":
    main(run, external_inputs, watched_inputs)
