"""Count the graphs that torch.compile makes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter


def count_graphs(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """From here on torch.compile must take in all of what it compiles; `frame_count` is that of graphs."""
    torch.compiler.reset()
    counter, original = CompileCounter(), torch.compile

    def compiled(module: torch.nn.Module, **options: object) -> object:
        return original(module, **{**options, "backend": counter, "fullgraph": True})

    monkeypatch.setattr(torch, "compile", compiled)
    return counter
