"""Run code for a GPU without one: tensors of the device cuda:0 are fake, those of the CPU are real.

A fake tensor (PyTorch's `FakeTensorMode`) has a shape, a dtype and a device, but no values. All of
PyTorch runs on it as on a GPU, so mixing devices is an error; only kernels are not started. What comes
back to the host is all ones. Use it where `stub.environment` is the environment.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]
SOURCES = (str(ROOT / "edm2"), str(ROOT / "stages"))
STAGED_BYTES = 2**16  # a larger copy from memory that is not pinned waits for the stream
aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)
FREE = (
    "empty",
    "new_empty",
    "detach",
    "lift",
    "_unsafe_view",
    "_reshape_alias",
    "record_stream",
    "set_",
)
# of PyTorch's kernels for lists: tensors by number of lists, blocks, values a block
LIST_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
LIST_BLOCKS, BLOCK_VALUES = 320, 65536


class Recorder(TorchDispatchMode):
    """What a GPU would have been asked for.

    Attributes:
        syncs: places where the host waits for the device, with the reason.
        copies: places where the host sends something without waiting.
        launches: kernels started, by place; those of a backward pass are at "backward".
        operations: the same, by operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.clear()

    def clear(self) -> None:
        self.syncs: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def sync(self, reason: str) -> None:
        self.syncs[f"{place()} {reason}"] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not fake and not _is_cuda(kwargs.get("device")):
            return func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in COPIES:
            to_host, result = self._copy(packet, args, kwargs)
            if to_host:
                return result
        if packet is aten._local_scalar_dense:
            self.sync("reads a value")
            return torch.ones((), dtype=args[0].dtype).item()
        if packet in (aten.index, aten.index_put, aten.index_put_) and any(
            tensor.dtype == torch.bool for tensor in tree_leaves(args[1]) if tensor is not None
        ):
            self.sync("index by a mask")
        with self.fake_mode:
            try:
                result = func(*args, **kwargs)
            except (DataDependentOutputException, DynamicOutputShapeException):
                self.sync(f"{func}: the result's size or value is needed")
                raise
        self._launch(func, args, kwargs)
        return tree_map_only(FakeTensor, _on_host, result)

    def _copy(self, packet: Any, args: Any, kwargs: dict[str, Any]) -> tuple[bool, Any]:
        """Record a copy between host and device. Whether it is to the host, and then its result."""
        source = args[1] if packet is aten.copy_ else args[0]
        device = args[0].device if packet is aten.copy_ else kwargs.get("device")
        target = torch.device(device or source.device)
        if source.device.type == target.type:
            return False, None
        flag = args[2] if packet is aten.copy_ and len(args) > 2 else kwargs.get("non_blocking")
        if target.type == "cpu":
            self.sync("copy to the host")
            if packet is aten.copy_:
                return True, args[0].fill_(1)
            return True, torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        if flag and (source.nbytes <= STAGED_BYTES or source.is_pinned()):
            self.copies[place()] += 1
        else:
            self.sync("copy from the host")
        return False, None

    def _launch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        name = func._overloadpacket.__name__
        count = (
            _list_launches(args) if name.startswith(("_foreach", "_fused", "_amp_foreach")) else 1
        )
        if name.startswith(FREE) or _is_view(func):
            return
        self.launches[place()] += count
        self.operations[name] += count


@contextlib.contextmanager
def fake_cuda() -> Iterator[Recorder]:
    """Context in which the device cuda:0 exists and computes nothing.

    Functions that hide copies from dispatch modes are replaced by ones that do the same openly.
    """
    from torch.optim import optimizer

    recorder = Recorder()
    torch.cuda.init()
    with contextlib.ExitStack() as stack:
        for owner, name, function in (
            (torch, "tensor", _openly(torch.tensor)),
            (torch, "as_tensor", _as_tensor),
            (torch.Tensor, "new_tensor", lambda self, data: torch.tensor(data, device=self.device)),
            (FakeTensor, "tolist", _tolist),
            (nn.Module, "_apply", _apply),
            (torch.cuda, "synchronize", lambda device=None: recorder.sync("synchronize")),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, function)
        types = optimizer._foreach_supported_types
        types.append(FakeTensor)  # otherwise optimizers would step through parameters one by one
        stack.callback(types.remove, FakeTensor)
        stack.enter_context(recorder)
        yield recorder


def place() -> str:
    """The innermost line of the project that runs, with its function; "backward" in a backward pass."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(SOURCES):
            return f"{path[len(str(ROOT)) + 1 :]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "backward"


def _on_host(tensor: FakeTensor) -> torch.Tensor:
    """A real tensor if one of the CPU was made like a fake one."""
    if tensor.fake_device.type == "cuda":
        return tensor
    return torch.ones(tensor.shape, dtype=tensor.dtype)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


@functools.cache
def _is_view(func: Any) -> bool:
    """Whether an operation only returns a view of an argument."""
    infos = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
    return bool(infos) and not any(info.is_write for info in infos)


def _list_launches(args: Any) -> int:
    """Kernels for lists of tensors: several tensors each, if shapes and strides of all lists agree.

    The lists of an operation are the arguments that are as long as the first.
    """
    lists = [arg for arg in args if isinstance(arg, list | tuple) and len(arg) == len(args[0])]
    lists = [tensors for tensors in lists if isinstance(tensors[0], torch.Tensor)]
    for first, *others in zip(*lists, strict=True):
        if any((t.shape, t.stride()) != (first.shape, first.stride()) for t in others if t.ndim):
            return len(args[0])
    blocks = sum(-(-tensor.numel() // BLOCK_VALUES) for tensor in lists[0])
    return max(-(-len(lists[0]) // LIST_TENSORS[len(lists)]), -(-blocks // LIST_BLOCKS))


def _openly(original: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.tensor` as a tensor on the host and a copy of it."""

    def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = original(data, **kwargs)
        return made if device is None else made.to(device)

    return tensor


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
    if isinstance(data, torch.Tensor):
        return data.to(device or data.device, dtype or data.dtype)
    if hasattr(data, "__array__"):
        return torch.from_numpy(data).to(device or "cpu", dtype)
    return torch.tensor(data, dtype=dtype, device=device)


def _tolist(self: torch.Tensor) -> Any:
    return self.cpu().tolist()


def _apply(
    self: nn.Module, function: Callable[..., torch.Tensor], recurse: bool = True
) -> nn.Module:
    """`Module._apply` with new parameters, as the values of fake ones cannot be exchanged."""
    for child in self.children() if recurse else ():
        child._apply(function)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            moved = function(parameter.detach())
            self._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = function(buffer)
    return self
