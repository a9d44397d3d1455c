"""Moments that are allocated early are those of a first step without it."""

import pytest
import torch

from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.runtime.moments import allocate_moments


def optimizer_of(kind: type[torch.optim.Adam], allocated: bool, **options) -> torch.optim.Adam:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, 1).to(memory_format=torch.channels_last)
    layer.bias.requires_grad_(False)
    optimizer = kind(layer.parameters(), **options)
    if allocated:
        allocate_moments(optimizer)
    layer(torch.ones(1, 2, 4, 4)).sum().backward()
    return optimizer


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.Adam, {"fused": True}), (torch.optim.AdamW, {})]
)
def test_the_first_step_is_that_of_moments_that_it_allocates(tmp_path, kind, options):
    plain, early = (optimizer_of(kind, allocated, **options) for allocated in (False, True))
    before = early.state_dict()["state"]
    plain.step()
    saved = plain.state_dict()["state"]
    save_tree(tmp_path / "a", saved)
    assert before.keys() == saved.keys()
    for name, tensor in saved[0].items():
        assert before[0][name].stride() == tensor.stride()
        assert not before[0][name].any()
    early.step()
    for name, tensor in saved[0].items():
        assert torch.equal(early.state_dict()["state"][0][name], tensor)
    loaded = load_tree(tmp_path / "a", before)
    assert all(loaded[0][name] is not tensor for name, tensor in saved[0].items())
    assert all(loaded[0][name].data_ptr() == before[0][name].data_ptr() for name in saved[0])
