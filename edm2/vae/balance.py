"""Gradient normalization: how hard each loss pulls at the image is set by its weight alone."""

from collections.abc import Mapping, Sequence

import torch

from edm2.runtime.distributed import all_reduce, ranks

Gradients = Mapping[str, torch.Tensor]  # by loss


def gradient_norms(parts: Sequence[Gradients]) -> dict[str, torch.Tensor]:
    """Norm of each loss's gradient over the joint batch of all microbatches and ranks.

    Every loss is a mean over its microbatch, so that a part's gradient is as many times the joint
    one's as there are parts in all.
    """
    names = list(parts[0])
    squares = torch.stack(
        [torch.stack([part[name].square().sum() for part in parts]).sum() for name in names]
    )
    norms = all_reduce(squares).sqrt() / (len(parts) * ranks().size)
    return dict(zip(names, norms, strict=True))


def balanced(
    part: Gradients, weights: Mapping[str, float], norms: Gradients | None
) -> torch.Tensor:
    """Σ_k weight_k · g_k / ‖g_k‖ at the reconstructions of a microbatch.

    A loss then pulls on the joint batch with strength `weight`, whatever its own scale.

    Args:
        norms: ‖g_k‖; None: gradients as they are.
    """
    scaled = [
        gradient * (weights[name] if norms is None else weights[name] / (norms[name] + 1e-8))
        for name, gradient in part.items()
    ]
    return torch.stack(scaled).sum(0)
