"""The VAE that makes latents: network, losses, training, and the codecs."""
