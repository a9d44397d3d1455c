"""Gradient normalization: a loss acts on each image as strongly as its weight says, at any scale."""

from collections.abc import Mapping, Sequence

import torch

from edm2.runtime.distributed import all_reduce, ranks

LossGradients = Mapping[str, torch.Tensor]  # loss → its gradient at the reconstructions
EPSILON = 1e-8  # added to norms, so that a gradient of zero stays zero


def gradient_norms(microbatches: Sequence[LossGradients]) -> dict[str, torch.Tensor]:
    """Norm of the gradient of each image's loss, its root mean square over all images of all ranks.

    Each loss is a mean over the N images of its microbatch, so that its gradient there is 1/N of the
    image's own.

    Args:
        microbatches: all of the same size.

    Returns:
        Scalars by loss, the same on all ranks.
    """
    names = list(microbatches[0])
    images = len(microbatches[0][names[0]]) if names else 0
    squares = torch.stack(
        [
            torch.stack([gradients[name].square().sum() for gradients in microbatches]).sum()
            for name in names
        ]
    )
    norms = (all_reduce(squares) * images / (len(microbatches) * ranks().world_size)).sqrt()
    return dict(zip(names, norms, strict=True))


def combine_gradients(
    gradients: LossGradients,
    weights: Mapping[str, float],
    norms: Mapping[str, torch.Tensor] | None,
) -> torch.Tensor:
    """Σ_k weight_k · g_k / ‖g_k‖ at the reconstructions of a microbatch, [N, 3, R, R].

    So loss k is a mean over images whose gradients have norm weight_k (root mean square), at any scale of
    the loss and any size of the batch.

    Args:
        norms: ‖g_k‖, from `gradient_norms`; None: no normalization, Σ_k weight_k · g_k.
    """
    scaled = [
        gradient * (weights[name] if norms is None else weights[name] / (norms[name] + EPSILON))
        for name, gradient in gradients.items()
    ]
    return torch.stack(scaled).sum(0)
