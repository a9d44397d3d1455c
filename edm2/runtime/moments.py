"""Moments of Adam, allocated before the first step: a checkpoint is read into them, without a copy."""

import torch
from torch.nn.parameter import is_lazy


def allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give Adam or AdamW the state with which its first step would begin.

    Parameters without values yet get theirs in that step.
    """
    for group in optimizer.param_groups:
        on_device = group["fused"] or group["capturable"]
        for p in group["params"]:
            if p.requires_grad and not is_lazy(p):
                optimizer.state[p] = {
                    "step": torch.zeros((), device=p.device if on_device else None),
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
