"""Normalization of latents."""

import torch

from edm2.data.normalization import Normalization


def test_denormalize_inverts_normalize() -> None:
    norm = Normalization(torch.tensor([3.0, 0.0, -10.0]), torch.tensor([0.2, 1.0, 5.0]))
    latents = torch.randn(10, 3, 4, 4)
    torch.testing.assert_close(norm.denormalize(norm.normalize(latents)), latents)


def test_normalize_by_hand() -> None:
    norm = Normalization(torch.tensor([2.0, 0.0]), torch.tensor([4.0, 0.5]))
    x = torch.tensor([10.0, 1.0]).reshape(1, 2, 1, 1)
    assert norm.normalize(x).flatten().tolist() == [1.0, 1.0]  # (10 − 2)/4/2, (1 − 0)/0.5/2
