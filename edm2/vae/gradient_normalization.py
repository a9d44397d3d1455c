"""Gradient normalization: a loss acts on the image as strongly as its weight says, at any scale."""

from collections.abc import Mapping, Sequence

import torch

from edm2.runtime.distributed import all_reduce, ranks

LossGradients = Mapping[str, torch.Tensor]  # loss → its gradient at the reconstructions
EPSILON = 1e-8  # added to norms, so that a gradient of zero stays zero


def gradient_norms(microbatches: Sequence[LossGradients]) -> dict[str, torch.Tensor]:
    """Euclidean norm of each loss's gradient over the whole batch: all microbatches of all ranks.

    Each loss is a mean over its microbatch. With n microbatches over all ranks, its gradient there
    is n times its part of the gradient of the mean over the whole batch.

    Returns:
        Scalars by loss, the same on all ranks.
    """
    names = list(microbatches[0])
    squares = torch.stack(
        [
            torch.stack([gradients[name].square().sum() for gradients in microbatches]).sum()
            for name in names
        ]
    )
    norms = all_reduce(squares).sqrt() / (len(microbatches) * ranks().world_size)
    return dict(zip(names, norms, strict=True))


def combine_gradients(
    gradients: LossGradients,
    weights: Mapping[str, float],
    norms: Mapping[str, torch.Tensor] | None,
) -> torch.Tensor:
    """Σ_k weight_k · g_k / ‖g_k‖ at the reconstructions of a microbatch, [N, 3, R, R].

    So over the whole batch the term of loss k has norm weight_k, at any scale of the loss.

    Args:
        norms: ‖g_k‖, from `gradient_norms`; None: no normalization, Σ_k weight_k · g_k.
    """
    scaled = [
        gradient * (weights[name] if norms is None else weights[name] / (norms[name] + EPSILON))
        for name, gradient in gradients.items()
    ]
    return torch.stack(scaled).sum(0)
