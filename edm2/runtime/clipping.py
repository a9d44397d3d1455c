"""Values of a VAE that were clipped, in words."""

from collections.abc import Mapping

TEXTS = {
    "clipped/latents": "of the latents' values clipped to vae.clamp",
    "clipped/images": "of the decoded values outside [-2, 2], and clipped",
}


def clipped_values(metrics: Mapping[str, float]) -> list[str]:
    """A few words on the share of each kind that the metrics have."""
    shares = {text: metrics[key] for key, text in TEXTS.items() if metrics.get(key)}
    return [
        f"{f'{share:.2%}' if share >= 5e-5 else 'less than 0.01%'} {text}"
        for text, share in shares.items()
    ]
