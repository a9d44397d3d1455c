"""The device and the precision of networks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edm2.params import UserError
from edm2.params.runtime import Runtime
from edm2.runtime.distributed import ranks
from edm2.runtime.memory import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(runtime: Runtime) -> torch.device:
    """The device of this rank.

    Also sets the number of CPU threads and how GPUs compute float32.

    Raises:
        UserError: PyTorch does not see the GPU that params name.
    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    use_full_float32()
    name, available = runtime.device, torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not available):
        keep_freed_memory()
        return torch.device("cpu")
    if not available:
        raise UserError(
            f"runtime.device, or --device: {name!r}: expected a GPU, but PyTorch sees none. Set it to auto "
            "or cpu, or check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES."
        )
    index = int(name.partition(":")[2]) if ":" in name else ranks().local_rank
    if index >= available:
        raise UserError(
            f"runtime.device: {name!r} on rank {ranks().rank}: expected a GPU below {available}, "
            "the number that PyTorch sees. Set it to auto or cpu, or start fewer processes."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def use_full_float32() -> None:
    """Compute float32 in float32 everywhere, on GPUs as on CPUs.

    PyTorch would compute convolutions in TensorFloat-32, of 10 bits. Whoever wants speed at that
    price has it at a smaller one with `runtime.precision: bf16`, in which only activations are short.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def full_float32() -> Iterator[None]:
    """`use_full_float32` within the context, in programs that chose otherwise."""
    matmuls, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    use_full_float32()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmuls)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Context in which cuDNN tries its algorithms for each new shape, and takes the fastest.

    For steps of trainings, whose shapes stay the same. Elsewhere cuDNN chooses by shape alone, so that
    all ranks find the same bits.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


def activation_dtype(runtime: Runtime) -> torch.dtype:
    return DTYPES[runtime.precision]
