"""What a computation costs, without computing: operations and memory, from fake tensors.

Tensors of PyTorch's `FakeTensorMode` have shapes and no values. The same code runs on them that runs on
a device, so a training step of the largest network takes seconds and no memory. Fake tensors are of
the CPU, whose fused attention keeps the same tensors for the backward pass as that of GPUs.
"""

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BLOCK = 512  # bytes, to which the allocator of CUDA rounds up
CPU = torch.device("cpu")

# run(passes) does the work of a number of forward passes; build(device) makes all that it works on
Run = Callable[[int], object]
Build = Callable[[torch.device], Run]


@dataclass(frozen=True)
class Cost:
    """The cost of one run of a workload on one device.

    Attributes:
        flops: floating-point operations of convolutions and matrix products, two per multiply-add.
        peak_bytes: most memory of tensors that were alive at once.
        resting_bytes: memory of those that are alive after the run, gradients included.
    """

    flops: int
    peak_bytes: int
    resting_bytes: int


class Meter(TorchDispatchMode):
    """Counts the operations within this context, and the bytes of all tensors that it makes.

    Attributes:
        flops: floating-point operations, as PyTorch's `FlopCounterMode` counts them.
        now, peak: bytes of the tensors that are alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:  # a fake tensor has no value
            return 1.0 if args[0].dtype.is_floating_point else 1
        output = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=output)
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._sizes[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def cost_of(build: Build, passes: int = 1) -> Cost:
    """The cost of one run of a workload. Optimizers have their state before the first run."""
    with _metered() as meter:
        run = build(CPU)
        meter.peak, before = meter.now, meter.flops
        run(passes)
        return Cost(meter.flops - before, meter.peak, meter.now)


@contextlib.contextmanager
def _metered() -> Iterator[Meter]:
    """Context in which new tensors are fake, and the generator of random numbers is left as it was.

    Modules stay as they are made: PyTorch refuses to move those of fake tensors, or to change their layout.
    """
    with (
        mock.patch.object(nn.Module, "to", lambda module, *_, **__: module),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        FakeTensorMode(allow_non_fake_inputs=True),
        Meter() as meter,
    ):
        # deep copies ask for the address of a tensor, and only compare it with zero
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield meter
