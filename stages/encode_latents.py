"""images, features, vae → data/latents, reports/latents: mean and std of every training image's latent."""

from edm2.pipeline.runner import StageContext, main


def run(context: StageContext) -> None:
    """Encode the training images; compute the latents' mean and std per channel, and describe them."""
    from edm2.pipeline.encoding import encode_latents

    encode_latents(context)


if __name__ == "__main__":
    main(run)
