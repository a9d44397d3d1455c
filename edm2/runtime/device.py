"""The device and the precision of networks."""

import torch

from edm2.params import UserError
from edm2.params.runtime import Runtime
from edm2.runtime.distributed import ranks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(runtime: Runtime) -> torch.device:
    """The device of this rank.

    Also sets the number of CPU threads, and makes float32 what it says on GPUs: PyTorch would compute
    convolutions in TensorFloat-32, of 10 bits.

    Raises:
        UserError: PyTorch does not see the GPU that params name.
    """
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name, available = runtime.device, torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise UserError(
            f"runtime.device: {name!r}: expected a GPU, but PyTorch sees none. Set it to auto or cpu, "
            "or check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES."
        )
    index = int(name.partition(":")[2]) if ":" in name else ranks().local_rank
    if index >= available:
        raise UserError(
            f"runtime.device: {name!r} on rank {ranks().rank}: expected a GPU below {available}, "
            "the number that PyTorch sees. Set it to auto or cpu, or start fewer processes."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def activation_dtype(runtime: Runtime) -> torch.dtype:
    return DTYPES[runtime.precision]
